"""Refine masks: shapes, dilation, the least width of a part, protection, feathering.

Every function is deterministic and works on the mask's box, never on the frame.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box, Size
from vace_batch.manifest.choices import MASK_SHAPES, MaskShape
from vace_batch.manifest.job import DEFAULT_DILATION, Dilation
from vace_batch.masks.store import Bits, FrameMask, make_mask, merge_masks

# float32 distances: sqrt(36) may be slightly above 6.
_DISTANCE_SLACK = 1e-3
# Passes over grids of thin pixels, coarsest first: their squares hold most of the other thin pixels already.
_STRIDES = (8, 2, 1)

# Both bound memory, not the result.
_TILE_PX = 128
_WINDOWS_AT_ONCE = 4096

Indices = npt.NDArray[np.intp]


def shape_mask(mask: FrameMask, shape: MaskShape) -> FrameMask:
    """Replace each connected part of a mask by `shape`: `mask | filled | hull | box`; only `mask` keeps holes.

    Hull and box hide the object's outline, which a tight mask gives away to the model.

    Raises:
        ClipError: `unknown_mask_shape`.
    """
    if shape not in MASK_SHAPES:
        raise ClipError("unknown_mask_shape", f"mask_shape: expected one of {', '.join(MASK_SHAPES)}, got {shape!r}")
    if shape == "mask":
        return mask
    canvas = mask.bits.astype(np.uint8)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        if shape == "filled":
            cv2.drawContours(canvas, [contour], -1, 1, cv2.FILLED)
        elif shape == "hull":
            cv2.fillConvexPoly(canvas, cv2.convexHull(contour), 1)
        else:
            x, y, width, height = cv2.boundingRect(contour)
            canvas[y : y + height, x : x + width] = 1
    return FrameMask(index=mask.index, box=mask.box, bits=canvas.astype(np.bool_))


def split_parts(mask: FrameMask) -> list[FrameMask]:
    """Split a mask into its 8-connected parts, in raster order of their first pixel."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.bits.astype(np.uint8), connectivity=8)
    parts = []
    for label in range(1, count):
        x, y, width, height = stats[label][:4].tolist()
        box = Box(mask.box.x + x, mask.box.y + y, width, height)
        parts.append(FrameMask(index=mask.index, box=box, bits=labels[y : y + height, x : x + width] == label))
    return parts


def dilate(mask: FrameMask, size: Size, dilation: Dilation) -> FrameMask:
    """Add every pixel of the frame within the dilation's radius of the mask, by Euclidean distance.

    The radius is in px, percent of the mask's longer side, or tokens; the largest of several counts. The result is
    clipped to the frame, and complete up to its edges.

    Raises:
        ClipError: `bad_dilation`, the radius is negative or not finite.
    """
    px = dilation.px or 0.0
    percent = dilation.percent or 0.0
    tokens = dilation.tokens or 0.0
    radius = max(px, percent / 100 * max(mask.box.width, mask.box.height), tokens * TOKEN_PX)
    if not math.isfinite(radius) or min(px, percent, tokens) < 0:
        raise ClipError("bad_dilation", f"dilate: expected finite values of at least 0, got {dilation}")
    box = mask.box.pad(math.ceil(radius)).clip(size)
    if not radius or box is None:
        return mask
    return _made(mask.index, _distance(mask.within(box)) <= radius + _DISTANCE_SLACK, box)


def at_least_token(mask: FrameMask, size: Size, min_px: int = TOKEN_PX) -> FrameMask:
    """Grow thin parts until every pixel of the mask lies in a `min_px` square of it; thick parts stay as they are.

    Parts thinner than one latent token vanish on the way to the model. Each pixel outside such a square gets the square
    that adds the fewest pixels, of equals the most centred one; at an edge of the frame it grows inwards. A frame
    narrower than `min_px` is filled across.
    """
    side = Size(min(min_px, size.width), min(min_px, size.height))
    box = mask.box.pad(max(side.width, side.height) - 1).clip(size)
    if box is None or side == Size(1, 1):
        return mask
    bits = mask.within(box)
    square = np.ones((side.height, side.width), np.uint8)
    held = _squares(
        cv2.erode(bits.view(np.uint8), square, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0), side
    )
    if held[bits].all():
        return mask
    corners = np.zeros(bits.shape, np.uint8)
    for stride in _STRIDES:
        thin = np.argwhere((bits & ~held)[::stride, ::stride]) * stride
        for tile in np.unique(thin // _TILE_PX, axis=0):
            inside = (thin // _TILE_PX == tile).all(axis=1)
            corners[_best_squares(bits, thin[inside], side)] = 1
        held |= _squares(corners, side)
    return _made(mask.index, bits | _squares(corners, side), box)


def subtract(mask: FrameMask | None, protect: FrameMask | None) -> FrameMask | None:
    """Remove the protected pixels from a mask; None if no pixel remains."""
    if mask is None or protect is None or mask.box.intersect(protect.box) is None:
        return mask
    return make_mask(mask.index, mask.bits & ~protect.within(mask.box), (mask.box.x, mask.box.y))


def refine(
    parts: list[FrameMask],
    size: Size,
    *,
    shape: MaskShape = "mask",
    dilation: Dilation | None = None,
    min_px: int = TOKEN_PX,
) -> FrameMask | None:
    """Shape and dilate each object of a frame by its own size, join them, and grow parts thinner than `min_px`.

    Raises:
        ClipError: `unknown_mask_shape`, `bad_dilation`.
    """
    grown = (dilate(shape_mask(part, shape), size, dilation or DEFAULT_DILATION) for part in parts)
    joined = merge_masks(grown)
    return None if joined is None else at_least_token(joined, size, min_px)


def feather_alpha(bits: Bits, feather_px: float) -> npt.NDArray[np.float32]:
    """Return blending weights of (h,w) bool `bits`: 1 on the mask, falling smoothly to exactly 0 at `feather_px`
    outside.

    The caller pads the mask's box by ceil(feather_px), or the ring is cut off at the array's edge.
    """
    if not bits.any() or feather_px <= 0:
        return bits.astype(np.float32)
    falling = np.clip(1 - _distance(bits) / np.float32(feather_px), 0, 1)
    alpha: npt.NDArray[np.float32] = falling * falling * (3 - 2 * falling)
    return alpha


def _distance(bits: Bits) -> npt.NDArray[np.float32]:
    """Return each pixel's distance to the nearest set one in px; exact, unlike OpenCV's 3x3 and 5x5 approximations."""
    outside = np.logical_not(bits).astype(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32)


def _squares(corners: MatLike, side: Size) -> Bits:
    """Join the `side` windows whose upper left pixels are set in (h,w) `corners`."""
    square = np.ones((side.height, side.width), np.uint8)
    return cv2.dilate(corners, square, anchor=(side.width - 1, side.height - 1), borderValue=0).astype(np.bool_)


def _best_squares(bits: Bits, pixels: npt.NDArray[np.intp], side: Size) -> tuple[Indices, Indices]:
    """Return, for each (y, x) of nearby `pixels`, the corner (ys, xs) of the best window that holds it."""
    reach = np.array([side.height - 1, side.width - 1])
    first = np.maximum(pixels.min(axis=0) - reach, 0)
    last = np.minimum(pixels.max(axis=0) + reach, np.array(bits.shape) - 1)
    scores = _window_scores(bits[first[0] : last[0] + 1, first[1] : last[1] + 1], side)
    padded = np.pad(scores, ((reach[0],) * 2, (reach[1],) * 2), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side.height, side.width))
    ys, xs = (pixels - first).T
    best = np.empty(len(pixels), np.intp)
    for start in range(0, len(pixels), _WINDOWS_AT_ONCE):
        part = slice(start, start + _WINDOWS_AT_ONCE)
        best[part] = windows[ys[part], xs[part]].reshape(-1, side.height * side.width).argmax(axis=1)
    return first[0] + ys + best // side.width - reach[0], first[1] + xs + best % side.width - reach[1]


def _window_scores(bits: Bits, side: Size) -> npt.NDArray[np.float64]:
    """Score each `side` window by its upper left pixel: its set bits, less up to 1 for how far off centre they lie."""
    y, x = np.mgrid[: bits.shape[0], : bits.shape[1]]
    covered = _window_sums(bits, side)
    corner_y, corner_x = np.mgrid[: covered.shape[0], : covered.shape[1]]
    holding = np.maximum(covered, 1)
    off_x = _window_sums(bits * x, side) / holding - corner_x - (side.width - 1) / 2
    off_y = _window_sums(bits * y, side) / holding - corner_y - (side.height - 1) / 2
    return covered - np.where(covered > 0, off_x**2 + off_y**2, 0) / (side.width**2 + side.height**2)


def _window_sums(values: npt.NDArray[np.bool_ | np.intp], side: Size) -> npt.NDArray[np.float64]:
    """Sum (h,w) `values` over each `side` window inside the array, by the window's upper left pixel."""
    table: npt.NDArray[np.float64] = np.asarray(cv2.integral(values.astype(np.float64), sdepth=cv2.CV_64F), np.float64)
    below = table[side.height :]
    above = table[: -side.height]
    return below[:, side.width :] - above[:, side.width :] - below[:, : -side.width] + above[:, : -side.width]


def _made(index: int, bits: Bits, box: Box) -> FrameMask:
    mask = make_mask(index, bits, (box.x, box.y))
    assert mask is not None, "a mask only grows here"
    return mask
