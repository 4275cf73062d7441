"""Track the camera through a shot: the place of each frame in its anchor frame, and the relation of their colours.

Each frame is aligned to an anchor frame, not to its neighbour, so errors do not add up; when the view has moved on, the
last aligned frame becomes the next anchor. Points are tracked at reduced size and outside the masks.

Matrices are 3x3 float64 and map (x, y) pixel centres of full-size frames. Arrays: HW gray uint8, HW3 RGB uint8.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.exposure import SAME_COLOURS, is_brighter
from vace_batch.background.motion import MIN_INLIERS, Fit, Matrix, fit_motion, project
from vace_batch.background.parallax import (
    MeshFile,
    Points,
    make_mesh,
    mesh_strength,
    neighbours,
    shifts_at,
    staying_together,
)
from vace_batch.background.poses import Pose, ReadFrames, ReadMasks, Segment, corners, with_masks
from vace_batch.background.views import Reduction, View, colour_relation, corners_in, is_free, mean_difference
from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask
from vace_batch.planning.windows import Shot
from vace_batch.video.frame import Frame

# OpenCV's type stubs lack some of its functions and forbid arguments that it takes.
_cv: Any = cv2

_TRACK_PIXELS = 640 * 400
# In flatter parts, such as a sky, points follow the codec's noise, much of which stays on the screen.
_TEXTURE_LEVELS = 3.0
_FEW_POINTS = 40
# Frames in a row that may be lost before the camera is taken to show another scene.
_MOST_LOST = 2
# A motion is accepted if it reduces the frame's difference to the anchor by at least this factor. Without texture, a
# difference below `_FLAT_DIFFERENCE` (evened levels) counts as none.
_STILL_SHARE = 1.03
_FLAT_DIFFERENCE = 6.0
_MIN_OVERLAP = 0.5
_MAX_ZOOM = 1.4
# Points are recognised by their surroundings, which change as things at other depths pass behind them.
_MAX_BEND_PX = 30.0
# A point farther than this share of the picture from its predicted place was lost; no parallax is that large.
_PARALLAX_SHARE = 0.25


_LK: dict[str, Any] = {"winSize": (15, 15), "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005)}


def track_camera(read: ReadFrames, masks: ReadMasks, shot: Shot, size: Size) -> tuple[Segment, ...]:
    """Track the camera through a shot in one pass over its frames; holds two reduced frames at a time."""
    scale = min(1.0, math.sqrt(_TRACK_PIXELS / (size.width * size.height)))
    small = Size(max(16, round(size.width * scale)), max(16, round(size.height * scale)))
    tracker = _Tracker(size, small)
    for frame, mask in with_masks(read, masks, shot.start, shot.stop):
        tracker.add(frame, mask)
    return tracker.segments()


class _Tracker:
    def __init__(self, size: Size, small: Size) -> None:
        self._reduction = Reduction(size, small)
        self._orb = _cv.ORB_create(nfeatures=800, fastThreshold=7)
        self._done: list[Segment] = []
        self._meshes = MeshFile()
        self._poses: list[Pose] = []
        self._link: Pose | None = None
        self._anchor: View | None = None
        self._points: Points = np.zeros((0, 2), np.float32)
        self._has_texture = False
        self._lost: list[tuple[int, View]] = []
        self._last: View | None = None
        # The brightest view of the segment so far, its motion to the anchor, and the anchor's colours relative to it.
        self._bright: View | None = None
        self._bright_at: Matrix = np.eye(3)
        self._anchor_colours = SAME_COLOURS
        self._near: npt.NDArray[np.intp] = np.zeros((0, 0), np.intp)
        # Places of the points in the previous frame; hidden points are placed by their surroundings.
        self._where: Points = self._points

    def segments(self) -> tuple[Segment, ...]:
        self._hold()
        self._close()
        return tuple(self._done)

    def add(self, frame: Frame, mask: FrameMask | None) -> None:
        self._take(frame.index, self._reduction.view(frame, mask))

    def _take(self, index: int, view: View) -> None:
        if self._anchor is None:
            self._begin(index, view)
            return
        fit = self._align(view)
        if self._last is not None and (fit is None or self._has_moved_on(fit)) and len(self._poses) > 1:
            self._close()
            self._link, self._poses = self._poses[-1], []
            self._set_anchor(self._last)
            fit = self._align(view)
        if fit is None:
            self._lost.append((index, view))
            if len(self._lost) > _MOST_LOST:
                self._begin_anew()
            return
        self._hold()
        self._keep(index, view, fit)

    def _begin(self, index: int, view: View) -> None:
        self._close()
        self._poses, self._link = [], None
        self._set_anchor(view)
        self._keep(index, view, Fit(matrix=np.eye(3), error_px=0.0, inliers=len(self._points)))

    def _begin_anew(self) -> None:
        """Begin a new segment at the first lost frame: a view lost for so long shows another scene."""
        (index, view), *rest = self._lost
        self._lost = []
        self._begin(index, view)
        for lost in rest:
            self._take(*lost)

    def _hold(self) -> None:
        """Give untrackable frames, such as a flash, the pose of the last tracked frame."""
        last = self._poses[-1] if self._poses else _unmoved(0)
        self._poses += [replace(last, index=index) for index, _ in self._lost]
        self._lost = []

    def _close(self) -> None:
        if not self._poses:
            return
        link = self._link
        if link is not None:
            gain, offset = self._anchor_colours
            link = replace(link, gain=link.gain / gain, offset=link.offset - link.gain * offset / gain)
        self._done.append(Segment(poses=tuple(self._poses), link=link))

    def _keep(self, index: int, view: View, fit: Fit) -> None:
        assert self._bright is not None
        to_bright = np.linalg.inv(self._bright_at) @ fit.matrix
        gain, offset = colour_relation(view, self._bright, self._reduction.in_tiny(to_bright))
        if is_brighter(self._bright.colour, gain, offset):
            self._see_colours_of(view, fit.matrix, gain, offset)
            gain, offset = SAME_COLOURS
        scale = self._reduction.small.width / self._reduction.size.width
        self._poses.append(
            Pose(
                index=index,
                to_anchor=self._reduction.in_full(fit.matrix),
                gain=gain,
                offset=offset,
                error_px=fit.error_px / scale,
                there=fit.there,
                back=fit.back,
            )
        )
        self._last = view

    def _see_colours_of(self, view: View, matrix: Matrix, gain: Points, offset: Points) -> None:
        """Make `view` the segment's colour reference; `gain` and `offset` take its colours to the old one's."""
        self._poses = [
            replace(pose, gain=pose.gain / gain, offset=(pose.offset - offset) / gain) for pose in self._poses
        ]
        self._anchor_colours = self._anchor_colours[0] / gain, (self._anchor_colours[1] - offset) / gain
        self._bright, self._bright_at = view, matrix

    def _set_anchor(self, view: View) -> None:
        self._anchor = self._last = self._bright = view
        self._bright_at, self._anchor_colours = np.eye(3), SAME_COLOURS
        textured = np.where(view.texture >= _TEXTURE_LEVELS, view.free, 0).astype(np.uint8)
        self._points = corners_in(view.gray, textured)
        self._has_texture = len(self._points) >= _FEW_POINTS
        if not self._has_texture:
            self._points = corners_in(view.gray, view.free)
        self._near, self._where = neighbours(self._points), self._points

    def _align(self, view: View) -> Fit | None:
        rough = self._rough_by_flow(view)
        if rough is None:
            matrix = self._rough_by_features(view)
            rough = None if matrix is None else (matrix, project(np.linalg.inv(matrix), self._points))
        return self._unless_still(view, None if rough is None else self._fine(view, *rough))

    def _unless_still(self, view: View, fit: Fit | None) -> Fit | None:
        """Return `fit` only if it aligns the frame better than no motion; textureless frames track spuriously."""
        assert self._anchor is not None
        if fit is not None and fit.is_still:
            return fit
        if fit is None and self._has_texture:
            return None
        soft = cv2.blur(self._anchor.gray, (5, 5)), cv2.blur(view.gray, (5, 5))
        free = (self._anchor.free == 255) & (view.free == 255)
        unmoved = mean_difference(soft[0], soft[1], free)
        still = Fit(matrix=np.eye(3), error_px=0.0, inliers=len(self._points))
        if fit is None:
            return still if unmoved < _FLAT_DIFFERENCE else None
        laid = cv2.warpPerspective(soft[1], fit.matrix, self._reduction.small_sides)
        seen = cv2.warpPerspective(view.free, fit.matrix, self._reduction.small_sides) == 255
        moved = mean_difference(soft[0], laid, seen & (self._anchor.free == 255))
        return still if unmoved <= _STILL_SHARE * moved else fit

    def _rough_by_flow(self, view: View) -> tuple[Matrix, Points] | None:
        """Follow the anchor's points from the previous frame: return the rough motion and the place of each point."""
        assert self._last is not None
        if len(self._points) < MIN_INLIERS:
            return None
        before = self._where.reshape(-1, 1, 2)
        now, status, _ = _cv.calcOpticalFlowPyrLK(self._last.gray, view.gray, before, before.copy(), maxLevel=4, **_LK)
        usable = is_free(self._where, self._last.free) & (status[:, 0] > 0) & is_free(now[:, 0], view.free)
        fit = fit_motion(now[usable, 0], self._points[usable], loose=2.0)
        if fit is None:
            return None
        guess = project(np.linalg.inv(fit.matrix), self._points)
        follows = np.linalg.norm(now[:, 0] - guess, axis=1) < _PARALLAX_SHARE * max(view.gray.shape)
        return fit.matrix, np.where((usable & follows)[:, None], now[:, 0], guess)

    def _rough_by_features(self, view: View) -> Matrix | None:
        assert self._anchor is not None
        there = self._orb.detectAndCompute(self._anchor.gray, self._anchor.free)
        here = self._orb.detectAndCompute(view.gray, view.free)
        if there[1] is None or here[1] is None:
            return None
        matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(here[1], there[1])
        if len(matches) < MIN_INLIERS:
            return None
        now = np.array([here[0][match.queryIdx].pt for match in matches], np.float32)
        then = np.array([there[0][match.trainIdx].pt for match in matches], np.float32)
        fit = fit_motion(now, then, loose=2.0)
        return None if fit is None else fit.matrix

    def _fine(self, view: View, rough: Matrix, guess: Points) -> Fit | None:
        """Refine a rough motion: warp the frame onto the anchor, then track points there to sub-pixels."""
        assert self._anchor is not None
        laid = cv2.warpPerspective(view.gray, rough, self._reduction.small_sides, flags=cv2.INTER_CUBIC)
        there, status, _ = _cv.calcOpticalFlowPyrLK(
            self._anchor.gray,
            laid,
            self._points.reshape(-1, 1, 2),
            project(rough, guess).reshape(-1, 1, 2),
            maxLevel=1,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            **_LK,
        )
        now = project(np.linalg.inv(rough), there)
        usable = (status[:, 0] > 0) & is_free(now, view.free)
        fit = fit_motion(now[usable], self._points[usable])
        if fit is None:
            return None
        rest = self._points - project(fit.matrix, now)
        together = staying_together(rest, usable, self._near)
        strength = mesh_strength(rest[together])
        self._where = project(np.linalg.inv(fit.matrix), self._points)
        # A camera that stands still has no parallax: moving points then belong to moving things.
        if strength and not fit.is_still:
            fit.bend_px = float(np.percentile(np.linalg.norm(rest[together], axis=1), 90))
            kept = rest[together] * np.float32(strength)
            fit.there = make_mesh(now[together], kept, self._reduction.small, self._reduction.size, self._meshes)
            fit.back = make_mesh(
                self._points[together], kept, self._reduction.small, self._reduction.size, self._meshes
            )
            seen_here = shifts_at(self._points, self._points[together], rest[together])
            self._where = project(np.linalg.inv(fit.matrix), self._points - seen_here)
            self._where[together] = now[together]
        return fit

    def _has_moved_on(self, fit: Fit) -> bool:
        quad = project(fit.matrix, corners(self._reduction.small))
        area, _ = cv2.intersectConvexConvex(quad, corners(self._reduction.small))
        total = float((self._reduction.small.width - 1) * (self._reduction.small.height - 1))
        zoom = math.sqrt(max(abs(float(np.linalg.det(fit.matrix[:2, :2]))), 1e-6))
        few = fit.inliers < max(MIN_INLIERS, len(self._points) // 5)
        return area < _MIN_OVERLAP * total or not 1 / _MAX_ZOOM < zoom < _MAX_ZOOM or few or fit.bend_px > _MAX_BEND_PX


def _unmoved(index: int) -> Pose:
    return Pose(index=index, to_anchor=np.eye(3), gain=SAME_COLOURS[0], offset=SAME_COLOURS[1], error_px=0.0)
