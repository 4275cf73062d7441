"""Compare a frame's fill with the background that another frame of the source shows in the fill's place.

An object or a camera that moves reveals the background. The other frame is laid over the fill by the motion of the
surroundings. A good fill need not repeat every leaf: colours and contrasts count, in place or a little beside. How far
the surroundings of the fill are from the same surroundings in the other frame is the measure of a match.

Shape legend: H rows, W columns of a crop, 3 RGB; h, w the same of the grid of every 4th pixel; F features of a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.masks.store import Bits
from vace_batch.quality.crops import CropPair, cut, shrink_factor, shrunk, shrunk_bits
from vace_batch.quality.measures import luma

FloatImage = npt.NDArray[Any]

NUM_COLOUR_SHIFTS = 3
"""Columns of `Revealed.shift` that are colours; the others are contrasts. All are levels."""

FILL_RING_PX = 40
"""Width of the surroundings by which two frames are laid over each other."""

_REACH_PX = 48
_MOST_PX = 200 * 200
_GRID_PX = 4
_BESIDE = 2
"""Points of the grid beside a point that may match the point, too."""
_RIM_PX = 4
"""Pixels this near to a mask may show the object's edge."""
_LEAST_RING_POINTS = 12
_LEAST_POINTS = 4
_CORNERS = 120
_LEAST_CORNERS = 8
_NULL_QUANTILE = 0.9
_MOST_USUAL_LEVELS = 7.0
"""Surroundings that differ by more from one frame to the other move by themselves, and no frame tells of another."""
_MOST_LEVELS = 60.0
_PATCH_PX = 24
"""Differences this far apart are independent: frames that do not lie over each other differ by chance."""
_CHANCES = 1.0
_CONTRAST_WEIGHTS = (2.0, 2.0, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """A fill beside one other frame.

    `excess` (h, w): distance of the fill from the revealed background beyond that of the surroundings, in levels; NaN
    where nothing is revealed. `shift`: size of the mean of fill less background, of three colours and three contrasts,
    beyond chance. `share`: part of the fill's place that is revealed.
    """

    excess: FloatImage
    shift: FloatImage
    share: float


class _Overlay(NamedTuple):
    """A fill (H, W, 3) and the other frame laid over it, where the other frame is free and where the fill is."""

    fill: FloatImage
    other: FloatImage
    free: Bits
    inside: Bits
    ring: Bits


def compare_with(fill: CropPair, other: CropPair) -> Revealed | None:
    """Compare the fill of one frame with the source of another; None where the other reveals nothing of its place, or
    has other surroundings."""
    overlay = _overlay(fill, other)
    if overlay is None:
        return None
    grid = np.s_[_GRID_PX // 2 :: _GRID_PX, _GRID_PX // 2 :: _GRID_PX]
    inside, ring, free = (bits[grid] for bits in (overlay.inside, overlay.ring, overlay.free))
    if ring.sum() < _LEAST_RING_POINTS or inside.sum() < _LEAST_POINTS:
        return None
    here, there = _features(overlay.fill)[grid], _features(overlay.other)[grid]
    distance = _distance(here, there, free)
    usual = float(np.quantile(distance[ring], _NULL_QUANTILE))
    if usual > _MOST_USUAL_LEVELS:
        return None
    excess = np.full(distance.shape, np.nan, np.float32)
    excess[inside] = distance[inside] - usual
    difference = here - there
    shift = difference[inside].mean(axis=0) - difference[ring].mean(axis=0)
    patches = max(1.0, float(inside.sum()) * (_GRID_PX / _PATCH_PX) ** 2)
    chance = _CHANCES * difference[ring].std(axis=0) / patches**0.5
    beyond = np.maximum(np.abs(shift) - chance, 0)
    return Revealed(excess=excess, shift=beyond, share=min(1.0, float(inside.sum() * _GRID_PX**2 / _area(fill))))


def known_pixels(compared: Sequence[Revealed], mask: Bits) -> Bits:
    """Mark the pixels of a fill (H, W) whose background at least one of the other frames reveals."""
    known: Any = np.isfinite([each.excess for each in compared]).any(axis=0).astype(np.uint8)
    return np.asarray(cv2.resize(known, mask.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0, np.bool_)


def fill_crop(crops: CropPair) -> CropPair:
    """Cut a wide crop down to the mask and its surroundings, and shrink a large one."""
    return cut(crops, fill_box(crops), _MOST_PX)


def fill_box(crops: CropPair) -> Box:
    """Return the box of a wide crop's mask and surroundings."""
    rows, columns = np.flatnonzero(crops.mask.any(axis=1)), np.flatnonzero(crops.mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = Box(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y).shift(crops.box.x, crops.box.y)
    inside = box.pad(FILL_RING_PX).intersect(crops.box)
    assert inside is not None, "a mask lies in its crop"
    return inside


def _area(fill: CropPair) -> float:
    """Count the pixels of the mask in the scale of `fill_crop`."""
    return float(fill.mask.sum()) / shrink_factor(fill_box(fill), _MOST_PX) ** 2


def _overlay(fill: CropPair, other: CropPair) -> _Overlay | None:
    place = fill_box(fill)
    reach = place.pad(_REACH_PX).intersect(other.box)
    if reach is None or other.source is None:
        return None
    near, shrink = fill_crop(fill), shrink_factor(place, _MOST_PX)
    inner = reach.shift(-other.box.x, -other.box.y).slices
    source, taken = other.source[inner], other.mask[inner]
    if shrink > 1:
        source, taken = shrunk(source, shrink), shrunk_bits(taken, shrink)
    around, free_there = ~_grown(near.mask), ~_grown(taken)
    offset = np.array([place.x - reach.x, place.y - reach.y], np.float32) / shrink
    matrix = _motion((near.output, around), (source, free_there), offset)
    size = near.mask.shape[1], near.mask.shape[0]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    free = cv2.warpAffine(free_there.astype(np.float32), matrix, size, flags=how) > 0.99
    inside, ring = near.mask & free, around & free
    if min(ring.sum(), inside.sum()) < _LEAST_POINTS * _GRID_PX**2:
        return None
    shown = near.output.astype(np.float32)
    moved = cv2.warpAffine(source.astype(np.float32), matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    moved += np.median((shown - moved)[ring], axis=0)
    # Where the other frame is not free, the fill stands in, so that no blur mixes an object in.
    return _Overlay(shown, np.where(free[..., None], moved, shown), free, inside, ring)


def _grown(bits: Bits) -> Bits:
    side = 2 * _RIM_PX + 1
    return cv2.dilate(bits.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)


def _motion(
    here: tuple[npt.NDArray[np.uint8], Bits], there: tuple[npt.NDArray[np.uint8], Bits], offset: FloatImage
) -> FloatImage:
    """Estimate the affine matrix from coordinates of one crop to those of the other, by corners of the free parts.

    `offset` is the matrix's shift if nothing moved, which is returned where corners are few.
    """
    still = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    size = tuple(max(sides) for sides in zip(here[1].shape, there[1].shape, strict=True))
    gray = [_gray(image, size) for image, _ in (here, there)]
    where = np.zeros(size, np.uint8)
    where[: here[1].shape[0], : here[1].shape[1]] = here[1]
    corners: Any = cv2.goodFeaturesToTrack(gray[0], _CORNERS, 0.01, 5, mask=where)
    if corners is None or len(corners) < _LEAST_CORNERS:
        return still
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    end, status, _ = cv2.calcOpticalFlowPyrLK(
        gray[0], gray[1], corners, corners + offset, winSize=(15, 15), maxLevel=4, flags=flags
    )
    at = np.clip(np.rint(end[:, 0]).astype(int), 0, np.array(there[1].shape[::-1]) - 1)
    good = (status.ravel() == 1) & there[1][at[:, 1], at[:, 0]]
    if good.sum() < _LEAST_CORNERS:
        return still
    matrix, inliers = cv2.estimateAffinePartial2D(corners[good], end[good], ransacReprojThreshold=1)
    if matrix is None or inliers.sum() < _LEAST_CORNERS:
        return still
    return np.asarray(matrix, np.float32)


def _gray(image: npt.NDArray[np.uint8], size: tuple[int, ...]) -> Any:
    """Convert to brightness, with room to `size` (H, W) at the right and below: the tracker takes equal sizes."""
    bright = np.clip(luma(image), 0, 255).astype(np.uint8)
    room = size[0] - bright.shape[0], size[1] - bright.shape[1]
    return cv2.copyMakeBorder(bright, 0, room[0], 0, room[1], cv2.BORDER_REPLICATE)


def _features(image: FloatImage) -> FloatImage:
    """Describe each pixel by the colour and the contrast of three scales round the pixel, (H, W, 6), in levels."""
    bright = luma(image)
    smooth = [bright, *(cv2.GaussianBlur(bright, (0, 0), sigma) for sigma in (0.9, 2.2, 5.0))]
    bands = [
        weight * cv2.GaussianBlur(np.abs(fine - coarse), (0, 0), 3.0)
        for weight, fine, coarse in zip(_CONTRAST_WEIGHTS, smooth, smooth[1:], strict=False)
    ]
    return np.dstack([cv2.GaussianBlur(image, (0, 0), 2.5), *bands])


def _distance(here: FloatImage, there: FloatImage, free: Bits) -> FloatImage:
    """Measure how far each point (h, w) is from the most alike point near it in the other frame, and the other way.

    A line that the fill lacks is found the other way: nothing near it in the fill is like it.
    """
    height, width = free.shape
    margin = ((_BESIDE, _BESIDE), (_BESIDE, _BESIDE), (0, 0))
    wide_here, wide_there = np.pad(here, margin, mode="edge"), np.pad(there, margin, mode="edge")
    wide_free = np.pad(free, _BESIDE)
    one_way = np.full(free.shape, np.inf, np.float32)
    other_way = np.full(free.shape, np.inf, np.float32)
    for down in range(2 * _BESIDE + 1):
        for right in range(2 * _BESIDE + 1):
            beside = np.s_[down : down + height, right : right + width]
            to_there = ((here - wide_there[beside]) ** 2).sum(axis=-1)
            one_way = np.minimum(one_way, np.where(wide_free[beside], to_there, np.inf))
            other_way = np.minimum(other_way, ((wide_here[beside] - there) ** 2).sum(axis=-1))
    return np.asarray(np.minimum(np.sqrt(np.maximum(one_way, other_way)), 2 * _MOST_LEVELS), np.float32)
