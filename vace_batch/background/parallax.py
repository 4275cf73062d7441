"""Model parallax: a coarse grid of shifts, from tracked points, that corrects a homography where depths differ."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.fill import spread_inwards
from vace_batch.geometry import Size

# OpenCV's type stubs lack some of its functions and forbid arguments that it takes.
_cv: Any = cv2

Points = npt.NDArray[np.float32]
Shifts = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8 | np.float32 | np.float64]

_CELLS = 20
_NEIGHBOURS = 6
_TOGETHER_PX = 1.5
# Slanted ground shifts by more the nearer it is.
_TOGETHER_SHARE = 0.15
_MIN_TOGETHER = 3
_FEW_PX, _MUCH_PX = 0.3, 0.6
# Beyond this distance a point's weight falls with the fourth power: near a depth edge the nearest points count.
_SHARP_PX = 12.0
_STIFF_PX = 4.0
_LEAST_FLOW_PX = 24
_MAX_FINE_PX = 4.0


class MeshFile:
    """The grids of a shot's meshes, in an unnamed temporary file: a long shot has thousands and uses few at a time."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="vace-batch-")
        self._end = 0

    def write(self, grid: Shifts) -> int:
        """Append a float32 grid; return its offset."""
        at = self._end
        self._end += os.pwrite(self._file.fileno(), np.ascontiguousarray(grid, np.float32).tobytes(), at)
        return at

    def read(self, at: int, shape: tuple[int, int, int]) -> Shifts:
        """Read the grid of `shape` at an offset."""
        return np.frombuffer(os.pread(self._file.fileno(), 4 * math.prod(shape), at), np.float32).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Shifts in full-size pixels on a grid of cell centres over a frame of `size`."""

    size: Size
    shape: tuple[int, int, int]
    place: int
    file: MeshFile

    @property
    def shifts(self) -> Shifts:
        """The grid, (rows, columns, 2) float32, read from the file; read-only."""
        return self.file.read(self.place, self.shape)

    def at(self, places_xy: Shifts) -> Shifts:
        """Return the shifts at (h, w, 2) pixel places; beyond the frame, the shifts at its edge."""
        rows, columns = self.shape[:2]
        cells = (places_xy + 0.5) * np.array([columns / self.size.width, rows / self.size.height], np.float32) - 0.5
        cells = np.clip(cells, -1, max(rows, columns)).astype(np.float32)
        return look_up(self.shifts, cells, cv2.INTER_LINEAR)


def look_up(values: Shifts, places_xy: Shifts, interpolation: int) -> Shifts:
    """Interpolate `values` (H, W, C) float32 at (h, w, 2) places between pixels; beyond the edge, the edge's values."""
    x = np.ascontiguousarray(places_xy[..., 0], np.float32)
    y = np.ascontiguousarray(places_xy[..., 1], np.float32)
    return np.asarray(_cv.remap(values, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE))


def fine_shifts(target: Pixels, source: Pixels, seen: npt.NDArray[np.bool_]) -> Shifts:
    """Return the shift (h, w, 2) of each pixel of `target` to its place in `source`; both (h, w, 3), nearly aligned.

    Dense flow where `seen`, averaged over some pixels; elsewhere its smooth continuation. Large shifts do not count.
    """
    gray = [cv2.cvtColor(np.clip(each, 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for each in (target, source)]
    if min(gray[0].shape) < _LEAST_FLOW_PX or not seen.any():
        return np.zeros((*seen.shape, 2), np.float32)
    flow = _cv.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(1)
    shifts = flow.calc(gray[0], gray[1], np.zeros((*seen.shape, 2), np.float32))
    seen = seen & (np.maximum(np.abs(shifts[..., 0]), np.abs(shifts[..., 1])) < _MAX_FINE_PX)
    weight = seen.astype(np.float32)
    share = cv2.blur(weight, (9, 9))
    smooth = cv2.blur(shifts * weight[..., None], (9, 9)) / np.maximum(share, 1e-6)[..., None]
    return spread_inwards(smooth, seen) if seen.any() else np.zeros_like(shifts)


def neighbours(points: Points) -> npt.NDArray[np.intp]:
    """Return the six nearest neighbours of each of (N, 2) points, (N, 6) indices; (N, 0) for fewer than 7 points."""
    if len(points) <= _NEIGHBOURS:
        return np.zeros((len(points), 0), np.intp)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :_NEIGHBOURS]


def staying_together(rest: Points, tracked: npt.NDArray[np.bool_], near: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Return which tracked points shift like at least three tracked neighbours."""
    if near.shape[1] == 0:
        return np.zeros(len(rest), np.bool_)
    tolerance = np.maximum(_TOGETHER_PX, _TOGETHER_SHARE * np.linalg.norm(rest, axis=1))[:, None]
    alike = (np.linalg.norm(rest[near] - rest[:, None], axis=-1) < tolerance) & tracked[near]
    return np.asarray(tracked & (alike.sum(axis=1) >= _MIN_TOGETHER), np.bool_)


def mesh_strength(rest: Points) -> float:
    """Weight of the mesh, 0..1, by the 90th percentile of the homography's residuals (N, 2).

    A ramp from `_FEW_PX` to `_MUCH_PX`.
    """
    if len(rest) < 2 * _MIN_TOGETHER:
        return 0.0
    far = float(np.percentile(np.linalg.norm(rest, axis=1), 90))
    return float(np.clip((far - _FEW_PX) / (_MUCH_PX - _FEW_PX), 0, 1))


def make_mesh(at: Points, rest: Points, small: Size, size: Size, file: MeshFile) -> Mesh:
    """Make the mesh of a frame of `size` from shifts `rest` at points `at`, both in pixels of the `small` frame."""
    columns = _CELLS if small.width >= small.height else max(2, round(_CELLS * small.width / small.height))
    rows = max(2, round(columns * small.height / small.width))
    x, y = np.meshgrid(
        (np.arange(columns) + 0.5) * small.width / columns, (np.arange(rows) + 0.5) * small.height / rows
    )
    shifts = shifts_at(np.stack([x, y], axis=-1).reshape(-1, 2), at, rest)
    scale = np.array([size.width / small.width, size.height / small.height])
    place = file.write((shifts * scale).astype(np.float32))
    return Mesh(size=size, shape=(rows, columns, 2), place=place, file=file)


def shifts_at(places: npt.NDArray[np.float32 | np.float64], at: Points, rest: Points) -> npt.NDArray[np.float64]:
    """Interpolate shifts `rest` (N, 2) from points `at` to `places` (M, 2): locally weighted plane fits."""
    beside = at[None].astype(np.float64) - places[:, None]
    weight = 1.0 / ((beside**2).sum(axis=-1) + _SHARP_PX**2) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    terms = np.concatenate([np.ones((*beside.shape[:2], 1)), beside], axis=-1)
    weighted = terms * weight[..., None]
    # Slopes are damped: points all on one side do not fix a slope well.
    normal = weighted.transpose(0, 2, 1) @ terms + np.diag([0.0, _STIFF_PX**2, _STIFF_PX**2])
    return np.asarray(np.linalg.solve(normal, weighted.transpose(0, 2, 1) @ rest)[:, 0])
