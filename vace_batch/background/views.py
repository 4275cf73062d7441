"""Reduce frames to small views, by which the camera is tracked and colours are compared.

Arrays: HW gray uint8, HW3 RGB; points are (N, 2) float32, x and y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from vace_batch.background.exposure import SAME_COLOURS, match_colours
from vace_batch.background.motion import Matrix
from vace_batch.background.parallax import Points
from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask
from vace_batch.video.frame import Frame

_COLOUR_SIDE = 96
_MAX_POINTS = 400
_POINT_DISTANCE_PX = 10
# Masks are surrounded by compression artefacts and motion blur, in which no point should be tracked.
_KEEP_OFF_PX = 4


@dataclass(slots=True, kw_only=True)
class View:
    """A reduced frame, for tracking and for colours.

    `gray`, of even contrast, is for tracking; `texture` is the contrast it had (levels); `free` is 255 outside the
    mask. `colour` is a tiny RGB picture, valid where `colour_free`.
    """

    gray: npt.NDArray[np.uint8]
    texture: npt.NDArray[Any]
    free: npt.NDArray[np.uint8]
    colour: npt.NDArray[Any]
    colour_free: npt.NDArray[np.bool_]


class Reduction:
    """The sizes of a frame's views: `size` in full, `small` for tracking, `tiny` for colours."""

    def __init__(self, size: Size, small: Size) -> None:
        self.size = size
        self.small = small
        self.tiny = _with_long_side(small, _COLOUR_SIDE)
        self._to_small = shrinking(size, small)
        self._small_to_tiny = shrinking(small, self.tiny)

    @property
    def small_sides(self) -> tuple[int, int]:
        """Width and height of the small view, as OpenCV takes them."""
        return self.small.width, self.small.height

    @property
    def tiny_sides(self) -> tuple[int, int]:
        """Width and height of the tiny view, as OpenCV takes them."""
        return self.tiny.width, self.tiny.height

    def in_full(self, matrix: Matrix) -> Matrix:
        """Convert a motion between small views to one between full-size frames."""
        full = np.linalg.inv(self._to_small) @ matrix @ self._to_small
        return np.asarray(full / full[2, 2], np.float64)

    def in_tiny(self, matrix: Matrix) -> Matrix:
        """Convert a motion between small views to one between tiny views."""
        return np.asarray(self._small_to_tiny @ matrix @ np.linalg.inv(self._small_to_tiny), np.float64)

    def view(self, frame: Frame, mask: FrameMask | None) -> View:
        rgb = frame.rgb()
        small = rgb if self.small == self.size else cv2.resize(rgb, self.small_sides, interpolation=cv2.INTER_AREA)
        bits = np.zeros((self.size.height, self.size.width), np.uint8)
        if mask is not None:
            bits[mask.box.slices] = mask.bits
        covered = cv2.resize(bits * 255, self.small_sides, interpolation=cv2.INTER_AREA)
        side = 2 * _KEEP_OFF_PX + 1
        free = np.where(cv2.dilate(covered, np.ones((side, side), np.uint8)) > 0, 0, 255).astype(np.uint8)
        tiny = cv2.resize(small, self.tiny_sides, interpolation=cv2.INTER_AREA).astype(np.float32)
        tiny_free = cv2.resize(free, self.tiny_sides, interpolation=cv2.INTER_AREA) == 255
        gray, texture = _evened(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        return View(gray=gray, texture=texture, free=free, colour=tiny, colour_free=tiny_free)


def _with_long_side(size: Size, side: int) -> Size:
    """Scale `size` so that its longer side is `side`; neither gets shorter than 8."""
    longer = max(size.width, size.height)
    return Size(max(8, round(size.width * side / longer)), max(8, round(size.height * side / longer)))


def shrinking(full: Size, small: Size) -> Matrix:
    """Map pixel centres of a frame of `full` size to pixel centres of the same frame at `small` size."""
    x, y = small.width / full.width, small.height / full.height
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def mean_difference(a: MatLike, b: MatLike, where: npt.NDArray[np.bool_]) -> float:
    return float(cv2.absdiff(a, b)[where].mean()) if where.any() else 255.0


def corners_in(gray: npt.NDArray[np.uint8], where: npt.NDArray[np.uint8]) -> Points:
    corners = cv2.goodFeaturesToTrack(gray, _MAX_POINTS, 0.003, _POINT_DISTANCE_PX, mask=where)
    return np.asarray(() if corners is None else corners, np.float32).reshape(-1, 2)


def _evened(gray: MatLike) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Even brightness and contrast out over some 20 pixels, so that light may change between frames.

    Also returns the contrast that was there (standard deviation, levels).
    """
    levels = gray.astype(np.float32)
    mean = cv2.blur(levels, (21, 21))
    spread = np.sqrt(np.maximum(cv2.blur(levels * levels, (21, 21)) - mean * mean, 0))
    return np.asarray(np.clip(128 + 48 * (levels - mean) / (spread + 6), 0, 255), np.uint8), spread


def is_free(points: Points, free: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which (N, 2) points lie inside the frame and outside its mask."""
    x, y = np.rint(np.clip(np.nan_to_num(points), -1e6, 1e6)).astype(np.int64).T
    inside = (x >= 2) & (y >= 2) & (x < free.shape[1] - 2) & (y < free.shape[0] - 2)
    return np.asarray(inside & (free[np.where(inside, y, 0), np.where(inside, x, 0)] > 0), np.bool_)


def colour_relation(view: View, anchor: View, matrix: Matrix) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Fit gain and offset per channel that take a frame's colours to the anchor's, without outliers."""
    size = (anchor.colour.shape[1], anchor.colour.shape[0])
    if view is anchor:
        return SAME_COLOURS
    laid = cv2.warpPerspective(view.colour, matrix, size, flags=cv2.INTER_LINEAR)
    free = cv2.warpPerspective(view.colour_free.astype(np.float32), matrix, size) > 0.99
    usable = free & anchor.colour_free
    if usable.sum() < 64:
        return SAME_COLOURS
    return match_colours(laid[usable], anchor.colour[usable])
