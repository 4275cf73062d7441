"""What is wrong with one frame's fill, or from one frame to the next: pure functions on crops.

Shape legend: H rows, W columns, 3 RGB; crops show a mask and a ring of known pixels round it, float32 levels of 0..255
unless said otherwise. `mask` is where the picture was to change. Sums are returned where a clip's value is their
quotient, so that large frames count more than small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.fill import spread_inwards
from vace_batch.masks.store import Bits

Levels = npt.NDArray[Any]

LEAST_PX = 24
"""Of fewer pixels no statistic is made."""

ROUNDING = 0.15
"""Contrast that a picture without any has in 8 bits."""
_WAYS = ((1, 0), (0, 1))
_EDGE = 8.0
"""Levels a pixel that make an edge."""
_COLOUR_STEP = 16
_RIM_PX = 3
_BEYOND_PX = 8
_LEAST_SHARE = 2e-3
_LIKELIER = 4.0
_ALONG = 15
_SPREAD = 2.5
"""A step shows as a slope in two of the five pixels that a line is wide."""
_NEUTRAL = 127.5
_NEUTRAL_WITHIN = 5.0


def luma(rgb: npt.NDArray[Any]) -> Levels:
    """Brightness of (H, W, 3), BT.709 weights."""
    return np.asarray(rgb.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32), np.float32)


def object_bits(source: Levels, mask: Bits) -> Bits:
    """Where the source under the mask is clearly not what its surroundings let expect: the object, if it stands out."""
    ring = ~mask
    if ring.sum() < LEAST_PX:
        return np.zeros_like(mask)
    texture = np.abs(source - cv2.blur(source, (15, 15))).max(axis=-1)
    least = max(14.0, 3 * float(np.median(texture[ring])))
    return np.asarray(mask & (np.abs(source - spread_inwards(source, ring)).max(axis=-1) > least), np.bool_)


def remaining(source: Levels, output: Levels, mask: Bits) -> tuple[float, float]:
    """How much of the object's edges is still there: sums of (was * is, was squared), over the object's own pixels.

    Their quotient is the least-squares share of the source's edges in the output's.
    """
    bits = object_bits(source, mask)
    was, now = (_gradients(image) for image in (source, output))
    bits &= np.abs(was).max(axis=-1) > _EDGE
    if bits.sum() < LEAST_PX:
        return 0.0, 0.0
    return float((was[bits] * now[bits]).sum()), float((was[bits] ** 2).sum())


def _gradients(image: Levels) -> Levels:
    bright = cv2.GaussianBlur(image, (0, 0), 1.0).mean(axis=-1)
    return (
        np.stack([cv2.Sobel(bright, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(bright, cv2.CV_32F, 0, 1, ksize=3)], -1) / 4
    )


def foreign(output: Levels, mask: Bits) -> tuple[float, float]:
    """(pixels under the mask of a colour that is not found round it, pixels under the mask)."""
    ring, inner = ~mask, cv2.erode(mask.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    if ring.sum() < LEAST_PX or inner.sum() < LEAST_PX:
        return 0.0, 0.0
    cells = _cells(output, 1.5)
    known = _about(_counts(cells[ring]) >= max(2.0, ring.sum() * 5e-4)) > 0
    return float((~known[tuple(cells[inner].T)]).sum()), float(inner.sum())


def uncovered(source: Levels, mask: Bits) -> tuple[float, float]:
    """(pixels just outside the mask of colours that are the object's rather than its surroundings', pixels there).

    A mask that is large enough ends in the surroundings, one that is too small in the object.
    """
    outward = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    inward = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    rim, ring, core = ~mask & (outward <= _RIM_PX), outward > _BEYOND_PX, mask & (inward > 0.4 * inward.max())
    if min(rim.sum(), ring.sum(), core.sum()) < LEAST_PX:
        return 0.0, 0.0
    cells = _cells(source, 1.0)
    inside, beyond = (_about(_counts(cells[bits])) / bits.sum() for bits in (core, ring))
    objects = (inside > _LEAST_SHARE) & (inside > _LIKELIER * beyond)
    return float(objects[tuple(cells[rim].T)].sum()), float(rim.sum())


def _cells(image: Levels, sigma: float) -> npt.NDArray[np.int32]:
    """Colours (H, W, 3) in steps of a sixteenth, noise smoothed away."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma) / _COLOUR_STEP, np.int32)


def _counts(cells: npt.NDArray[np.int32]) -> Levels:
    """How many of the pixels (N, 3) have each colour (17, 17, 17)."""
    side = 256 // _COLOUR_STEP + 1
    counts = np.zeros((side, side, side), np.float32)
    np.add.at(counts, tuple(cells.T), 1.0)
    return counts


def _about(counts: npt.NDArray[Any]) -> Levels:
    """The same with those of the colours next to each."""
    counts = counts.astype(np.float32)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if axis == other else (0, 0) for other in range(3)])
        first, second, third = (np.take(padded, range(at, at + counts.shape[axis]), axis) for at in range(3))
        counts = first + second + third
    return counts


def neutral(output: Levels, mask: Bits) -> tuple[float, float]:
    """(pixels of plain middle gray under the mask beyond the share that the ring has, pixels under the mask)."""
    gray = np.abs(cv2.blur(output, (3, 3)) - _NEUTRAL).max(axis=-1) < _NEUTRAL_WITHIN
    flat = np.abs(luma(output) - cv2.blur(luma(output), (5, 5))) < 2.0
    gray &= flat
    area, ring = float(mask.sum()), float((~mask).sum())
    usual = float(gray[~mask].sum()) / ring if ring >= LEAST_PX else 0.0
    return max(0.0, float(gray[mask].sum()) - usual * area), area


def seam(output: Levels, mask: Bits) -> tuple[float, float]:
    """Steps across the mask's border, and across lines beside it: two means of what goes on along the line, in levels.

    Texture that crosses a line evens out along it; a step does not. Nothing is said (0, 0) of masks too small.
    """
    outward = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    inward = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    distance = cv2.GaussianBlur(outward - inward, (0, 0), 2.0)
    across: Levels = np.stack([cv2.Sobel(distance, cv2.CV_32F, *way, ksize=3) for way in _WAYS], -1)
    across /= np.linalg.norm(across, axis=-1, keepdims=True) + 1e-6
    lines = [np.abs(distance - at) <= 2.5 for at in (0, 9, -9)]
    if any(line.sum() < LEAST_PX for line in lines[:2]):
        return 0.0, 0.0
    steps = np.stack([cv2.Sobel(output, cv2.CV_32F, *way, ksize=3) for way in _WAYS], -1) / 8 * _SPREAD
    slope = (steps * across[:, :, None]).sum(axis=-1)
    found = [_along(slope, line) for line in lines if line.sum() >= LEAST_PX]
    return found[0], max(found[1:])


def _along(slope: Levels, line: Bits) -> float:
    """The mean size, in the worst channel, of what a slope (H, W, 3) keeps when it is evened out along a line."""
    weight = line.astype(np.float32)
    even = (
        cv2.blur(slope * weight[..., None], (_ALONG, _ALONG))
        / np.maximum(cv2.blur(weight, (_ALONG, _ALONG)), 1e-3)[..., None]
    )
    return float(np.abs(even[line]).mean(axis=0).max())


def sharpness(output: Levels, bits: Bits) -> tuple[float, float]:
    """(fine, coarse) contrast of the brightness where `bits`: mean magnitudes of two bands of frequencies."""
    if bits.sum() < LEAST_PX:
        return 0.0, 0.0
    bright = luma(output)
    once, more = cv2.GaussianBlur(bright, (0, 0), 0.8), cv2.GaussianBlur(bright, (0, 0), 2.4)
    return float(np.abs(bright - once)[bits].mean()), float(np.abs(once - more)[bits].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """From one frame to the next, motion taken out, in levels: mean size inside the mask and in the ring, and by how
    much the inside's colour (3) shifts against the ring's."""

    inside: float
    ring: float
    shift: tuple[float, float, float]


def change(before: Levels, after: Levels, mask_before: Bits, mask_after: Bits) -> Change | None:
    """What changes between two crops of one place beyond the ring's motion; None where it cannot be told."""
    around = cv2.dilate((mask_before | mask_after).view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    ring, inside = ~around, mask_before & mask_after
    if ring.sum() < 4 * LEAST_PX or inside.sum() < LEAST_PX:
        return None
    moved, there = _moved(before, _motion(before, after, ring))
    inside, ring = inside & there, ring & there
    if ring.sum() < LEAST_PX or inside.sum() < LEAST_PX:
        return None
    difference = cv2.blur(after - moved, (3, 3))
    return _change(difference[inside], difference[ring])


def change_against(source: tuple[Levels, Levels], output: tuple[Levels, Levels]) -> Change:
    """The same for pictures that are new as a whole: the source's own change, from before to after, is the ring's."""
    matrix = _motion(*source, np.ones(source[0].shape[:2], np.bool_))
    differences = [
        cv2.blur(after - _moved(before, matrix)[0], (3, 3)).reshape(-1, 3) for before, after in (output, source)
    ]
    return _change(*differences)


def _change(inside: Levels, ring: Levels) -> Change:
    shift = inside.mean(axis=0) - ring.mean(axis=0)
    return Change(
        inside=float(np.abs(inside).mean()),
        ring=float(np.abs(ring).mean()),
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
    )


def _moved(image: Levels, matrix: npt.NDArray[Any]) -> tuple[Levels, Bits]:
    """The image under a motion, and where it shows something."""
    size = image.shape[1::-1]
    there = cv2.warpAffine(np.ones(image.shape[:2], np.float32), matrix, size, flags=cv2.INTER_LINEAR) > 0.99
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), there


def _motion(before: Levels, after: Levels, ring: Bits) -> npt.NDArray[Any]:
    """The ring's motion as an affine matrix, by tracked corners; the identity where there are none."""
    gray: list[Any] = [np.clip(luma(image), 0, 255).astype(np.uint8) for image in (before, after)]
    corners = cv2.goodFeaturesToTrack(gray[0], 80, 0.01, 4, mask=ring.astype(np.uint8) * 255)
    still = np.eye(2, 3, dtype=np.float32)
    if corners is None or len(corners) < 8:
        return still
    start: Any = corners
    found, status, _ = cv2.calcOpticalFlowPyrLK(gray[0], gray[1], start, start.copy(), winSize=(15, 15), maxLevel=3)
    good = status.ravel() == 1
    if good.sum() < 8:
        return still
    matrix, inliers = cv2.estimateAffinePartial2D(start[good], found[good], ransacReprojThreshold=1)
    if matrix is None or inliers.sum() < 8:
        return still
    return np.asarray(matrix, np.float32)


def block_change(source: npt.NDArray[np.uint8], output: npt.NDArray[np.uint8], allowed: Bits, side: int = 16) -> float:
    """The largest mean change, in levels, of a `side` px block of brightness (H, W) outside `allowed`.

    Coding noise goes to nothing in the mean of a block; a moved or recoloured thing does not.
    """
    kept = (~allowed).astype(np.float32)
    height, width = kept.shape
    small = (max(1, width // side), max(1, height // side))
    difference = (output.astype(np.float32) - source.astype(np.float32)) * kept
    sums = cv2.resize(difference, small, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(kept, small, interpolation=cv2.INTER_AREA)
    usable = weight > 0.5
    return float(np.abs(sums[usable] / weight[usable]).max()) if usable.any() else 0.0
