"""Measure the faults of one frame's fill, and of the change from one frame to the next: pure functions on crops.

Shape legend: H rows, W columns, 3 RGB; a crop shows a mask and a ring of known pixels round the mask, in float32 levels
of 0..255 by default. `mask` marks the pixels that were to change. A measure returns (part, whole) sums if a clip's
value is their quotient, so that large frames count more than small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.masks.store import Bits

FloatImage = npt.NDArray[Any]

LEAST_PX = 24
"""Fewer pixels give no statistic."""

_COLOUR_STEP = 16
_RIM_PX = 3
_BEYOND_PX = 8
_LEAST_SHARE = 2e-3
_LIKELIER = 4.0
_PLACE_PX = 16
_KNOWN_SHARE = 0.4
_RESTLESS = 0.9
_NEUTRAL = 127.5
_NEUTRAL_WITHIN = 5.0


def luma(rgb: npt.NDArray[np.uint8 | np.float32]) -> FloatImage:
    """Convert (H, W, 3) to brightness (H, W), with the weights of BT.709."""
    return np.asarray(rgb.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32), np.float32)


def foreign(output: FloatImage, mask: Bits) -> tuple[float, float]:
    """Count (masked pixels of a colour that the ring does not have, masked pixels)."""
    ring = ~mask
    inner = cv2.erode(mask.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    if ring.sum() < LEAST_PX or inner.sum() < LEAST_PX:
        return 0.0, 0.0
    cells = _cells(output, 1.5)
    known = _with_neighbours(_counts(cells[ring]) >= max(2.0, ring.sum() * 5e-4)) > 0
    return float((~known[tuple(cells[inner].T)]).sum()), float(inner.sum())


def uncovered(source: FloatImage, mask: Bits) -> tuple[float, float]:
    """Count (pixels just outside the mask with a colour of the object rather than the surroundings, pixels there).

    A large enough mask ends in the surroundings, a mask that is too small ends inside the object.
    """
    outward = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    inward = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    rim = ~mask & (outward <= _RIM_PX)
    ring = outward > _BEYOND_PX
    core = mask & (inward > 0.4 * inward.max())
    if min(rim.sum(), ring.sum(), core.sum()) < LEAST_PX:
        return 0.0, 0.0
    cells = _cells(source, 1.0)
    inside = _with_neighbours(_counts(cells[core])) / core.sum()
    beyond = _with_neighbours(_counts(cells[ring])) / ring.sum()
    objects = (inside > _LEAST_SHARE) & (inside > _LIKELIER * beyond)
    return float(objects[tuple(cells[rim].T)].sum()), float(rim.sum())


def _cells(image: FloatImage, sigma: float) -> npt.NDArray[np.int32]:
    """Quantise colours (H, W, 3) to steps of 16 levels, after smoothing noise away."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma) / _COLOUR_STEP, np.int32)


def _counts(cells: npt.NDArray[np.int32]) -> FloatImage:
    """Count the pixels (N, 3) by colour: a histogram (17, 17, 17)."""
    side = 256 // _COLOUR_STEP + 1
    counts = np.zeros((side, side, side), np.float32)
    np.add.at(counts, tuple(cells.T), 1.0)
    return counts


def _with_neighbours(counts: FloatImage) -> FloatImage:
    """Add each colour's neighbours in the histogram (3x3x3 sum)."""
    counts = counts.astype(np.float32)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if axis == other else (0, 0) for other in range(3)])
        size = counts.shape[axis]
        below = np.take(padded, range(0, size), axis)
        same = np.take(padded, range(1, 1 + size), axis)
        above = np.take(padded, range(2, 2 + size), axis)
        counts = below + same + above
    return counts


def neutral(output: FloatImage, mask: Bits) -> tuple[float, float]:
    """Count (masked pixels of plain middle gray beyond the ring's share of them, masked pixels)."""
    gray = np.abs(cv2.blur(output, (3, 3)) - _NEUTRAL).max(axis=-1) < _NEUTRAL_WITHIN
    flat = np.abs(luma(output) - cv2.blur(luma(output), (5, 5))) < 2.0
    gray &= flat
    area, ring = float(mask.sum()), float((~mask).sum())
    usual = float(gray[~mask].sum()) / ring if ring >= LEAST_PX else 0.0
    return max(0.0, float(gray[mask].sum()) - usual * area), area


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change from one frame to the next after motion compensation, in levels: mean size inside the mask and in the
    restless places of the ring, and the shift of the inside's colour (3) against the ring's."""

    inside: float
    ring: float
    shift: tuple[float, float, float]


def change(before: FloatImage, after: FloatImage, mask_before: Bits, mask_after: Bits) -> Change | None:
    """Measure the change between two crops of one place beyond the ring's motion; None with too few pixels."""
    around = cv2.dilate((mask_before | mask_after).view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    ring = ~around
    inside = mask_before & mask_after
    if ring.sum() < 4 * LEAST_PX or inside.sum() < LEAST_PX:
        return None
    moved, visible = _moved(before, _motion(before, after, ring))
    inside = inside & visible
    ring = ring & visible
    if ring.sum() < LEAST_PX or inside.sum() < LEAST_PX:
        return None
    difference = cv2.blur(after - moved, (3, 3))
    return _change(difference[inside], difference[ring], _restless(difference, ring))


def change_against(source: tuple[FloatImage, FloatImage], output: tuple[FloatImage, FloatImage]) -> Change:
    """Measure the change of frames that are new as a whole: the source's own change stands for the ring's."""
    matrix = _motion(*source, np.ones(source[0].shape[:2], np.bool_))
    of_output = cv2.blur(output[1] - _moved(output[0], matrix)[0], (3, 3)).reshape(-1, 3)
    of_source = cv2.blur(source[1] - _moved(source[0], matrix)[0], (3, 3)).reshape(-1, 3)
    return _change(of_output, of_source)


class _Restless(NamedTuple):
    """The mean size of the change and the shift of colour, in levels, of the ring's most restless places."""

    size: float
    shift: float


_STILL = _Restless(0.0, 0.0)


def _restless(difference: FloatImage, ring: Bits) -> _Restless:
    """Measure the ring's most restless places: a fill beside such a place may change as much."""
    size = max(1, ring.shape[1] // _PLACE_PX), max(1, ring.shape[0] // _PLACE_PX)
    known = ring.astype(np.float32)
    shares, sizes, colours = (
        cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        for values in (known, np.abs(difference).mean(axis=-1) * known, difference * known[..., None])
    )
    places = shares > _KNOWN_SHARE
    if not places.any():
        return _STILL
    shifts = colours[places] / shares[places][:, None] - difference[ring].mean(axis=0)
    return _Restless(
        float(np.quantile(sizes[places] / shares[places], _RESTLESS)),
        float(np.quantile(np.linalg.norm(shifts, axis=1), _RESTLESS)),
    )


def _change(inside: FloatImage, ring: FloatImage, restless: _Restless = _STILL) -> Change:
    shift = inside.mean(axis=0) - ring.mean(axis=0)
    shift = shift * max(0.0, 1 - restless.shift / max(float(np.linalg.norm(shift)), 1e-6))
    return Change(
        inside=float(np.abs(inside).mean()),
        ring=max(float(np.abs(ring).mean()), restless.size),
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
    )


def _moved(image: FloatImage, matrix: npt.NDArray[np.float32 | np.float64]) -> tuple[FloatImage, Bits]:
    """Warp an image by a motion; return the image, and a mask of its valid pixels."""
    size = image.shape[1::-1]
    valid = cv2.warpAffine(np.ones(image.shape[:2], np.float32), matrix, size, flags=cv2.INTER_LINEAR) > 0.99
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), valid


def _motion(before: FloatImage, after: FloatImage, ring: Bits) -> npt.NDArray[Any]:
    """Estimate the ring's motion as an affine matrix from tracked corners; the identity without corners."""
    gray: list[Any] = [np.clip(luma(image), 0, 255).astype(np.uint8) for image in (before, after)]
    corners = cv2.goodFeaturesToTrack(gray[0], 80, 0.01, 4, mask=ring.astype(np.uint8) * 255)
    still = np.eye(2, 3, dtype=np.float32)
    if corners is None or len(corners) < 8:
        return still
    start: Any = corners
    end, status, _ = cv2.calcOpticalFlowPyrLK(gray[0], gray[1], start, start.copy(), winSize=(15, 15), maxLevel=3)
    good = status.ravel() == 1
    if good.sum() < 8:
        return still
    matrix, inliers = cv2.estimateAffinePartial2D(start[good], end[good], ransacReprojThreshold=1)
    if matrix is None or inliers.sum() < 8:
        return still
    return np.asarray(matrix, np.float32)


def block_change(source: npt.NDArray[np.uint8], output: npt.NDArray[np.uint8], allowed: Bits, side: int = 16) -> float:
    """Measure the largest mean change, in levels, of a `side` px block of brightness (H, W) outside `allowed`.

    Coding noise vanishes in the mean of a block; a moved or recoloured object does not.
    """
    kept = (~allowed).astype(np.float32)
    height, width = kept.shape
    small = (max(1, width // side), max(1, height // side))
    difference = (output.astype(np.float32) - source.astype(np.float32)) * kept
    sums = cv2.resize(difference, small, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(kept, small, interpolation=cv2.INTER_AREA)
    usable = weight > 0.5
    return float(np.abs(sums[usable] / weight[usable]).max()) if usable.any() else 0.0
