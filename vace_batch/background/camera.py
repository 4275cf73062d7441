"""How the camera moved in a shot: where each frame lies in its anchor frame, and how its colours relate to it.

A frame is aligned straight to an anchor frame, not to its neighbour, so errors do not add up; when the view has moved
on, the last aligned frame becomes the next anchor. Points are tracked at reduced size and outside the masks.

Matrices are 3x3 float64 and map (x, y) pixel centres of full-size frames. Arrays: HW gray uint8, HW3 RGB uint8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.exposure import SAME_COLOURS, is_brighter, match_colours
from vace_batch.background.motion import MIN_INLIERS, Fit, Matrix, Points, fit_motion, project
from vace_batch.background.parallax import (
    Mesh,
    MeshFile,
    make_mesh,
    mesh_strength,
    neighbours,
    shifts_at,
    staying_together,
)
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask
from vace_batch.planning.windows import Shot
from vace_batch.video.frame import Frame
from vace_batch.video.read_ahead import CHUNK_FRAMES

ReadFrames = Callable[[int, int], Iterator[Frame]]
ReadMasks = Callable[[int, int], Mapping[int, FrameMask]]

# OpenCV's type stubs lack some of its functions and forbid arguments that it takes.
_cv: Any = cv2

_TRACK_PIXELS = 640 * 400
_COLOUR_SIDE = 96
_MAX_POINTS = 400
_POINT_DISTANCE_PX = 10
# In flatter parts, such as a sky, points follow the codec's noise, much of which stays on the screen.
_TEXTURE_LEVELS = 3.0
_FEW_POINTS = 40
# So many frames in a row may be unlike the rest before the camera is thought to show something else.
_MOST_LOST = 2
# A motion is believed where the picture laid by it differs from its anchor by less than this share of what the picture
# as it stands does; where nothing can be followed, a difference (evened levels) of less than the second is none.
_STILL_SHARE = 1.03
_FLAT_DIFFERENCE = 6.0
_MIN_OVERLAP = 0.5
_MAX_ZOOM = 1.4
# Points are told from their surroundings, which change as things at other depths pass behind them.
_MAX_BEND_PX = 30.0
# A point farther than this share of the picture from where the common motion puts it was lost, not near the camera.
_PARALLAX_SHARE = 0.25
# Masks are followed by compression artefacts and motion blur, in which no point should be tracked.
_KEEP_OFF_PX = 4


_LK: dict[str, Any] = {"winSize": (15, 15), "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """One frame against its anchor: `to_anchor` maps its pixels there. Its segment's colours, which are those of the
    segment's brightest frame, are gain * colour + offset (RGB).

    `back` and `there` say by how much that is off where the scene is not flat, None where it is: a pixel x of the frame
    lies at to_anchor(x) + there(x), and a pixel a of the anchor at the inverse of to_anchor of a - back(a).
    `error_px` is the median distance of tracked points from where the motion puts them, in full-size pixels.
    """

    index: int
    to_anchor: Matrix
    gain: npt.NDArray[Any]
    offset: npt.NDArray[Any]
    error_px: float
    there: Mesh | None = None
    back: Mesh | None = None

    @property
    def is_still(self) -> bool:
        """Whether the frame lies exactly on its anchor."""
        return bool(np.array_equal(self.to_anchor, np.eye(3)))

    def flat(self) -> Pose:
        """The pose without its meshes."""
        return self if self.back is None else replace(self, back=None, there=None)

    def in_anchor(self, places_xy: Points) -> Points:
        """Where (h, w, 2) pixels of the frame lie in its anchor."""
        moved = cv2.perspectiveTransform(places_xy, self.to_anchor)
        return np.asarray(moved if self.there is None else moved + self.there.at(places_xy), np.float32)

    def in_frame(self, places_xy: Points) -> Points:
        """Where (h, w, 2) pixels of the anchor lie in the frame."""
        moved = places_xy if self.back is None else places_xy - self.back.at(places_xy)
        return np.asarray(cv2.perspectiveTransform(moved, np.linalg.inv(self.to_anchor)), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive frames that share an anchor.

    `link` is the pose of that anchor's own frame in the segment before, with the gain and offset that take this
    segment's colours to that one's; None where nothing relates the two.
    """

    poses: tuple[Pose, ...]
    link: Pose | None

    @property
    def start(self) -> int:
        return self.poses[0].index

    @property
    def stop(self) -> int:
        return self.poses[-1].index + 1


def track_camera(read: ReadFrames, masks: ReadMasks, shot: Shot, size: Size) -> tuple[Segment, ...]:
    """The camera's way through a shot, in one pass over its frames; holds two reduced frames at a time."""
    scale = min(1.0, math.sqrt(_TRACK_PIXELS / (size.width * size.height)))
    small = Size(max(16, round(size.width * scale)), max(16, round(size.height * scale)))
    tracker = _Tracker(size, small)
    for frame, mask in with_masks(read, masks, shot.start, shot.stop):
        tracker.add(frame, mask)
    return tracker.segments()


def with_masks(read: ReadFrames, masks: ReadMasks, start: int, stop: int) -> Iterator[tuple[Frame, FrameMask | None]]:
    """Frames start..stop-1, each with its mask; masks are read a chunk of frames at a time."""
    held: Mapping[int, FrameMask] = {}
    known_to = start
    for frame in read(start, stop):
        if frame.index >= known_to:
            known_to = min(stop, frame.index + CHUNK_FRAMES)
            held = masks(frame.index, known_to)
        yield frame, held.get(frame.index)


def shrinking(full: Size, small: Size) -> Matrix:
    """Maps pixel centres of a frame of `full` size to those of the same frame at `small` size."""
    x, y = small.width / full.width, small.height / full.height
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def corners(size: Size) -> Points:
    """The four outer pixel centres of a frame, clockwise from the upper left."""
    right, bottom = size.width - 1, size.height - 1
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32)


@dataclass(slots=True, kw_only=True)
class _View:
    """A reduced frame: evened `gray` for tracking, the `texture` it had (levels), `free` (255 outside the mask), tiny
    RGB and its `colour_free` for colours."""

    gray: npt.NDArray[np.uint8]
    texture: npt.NDArray[Any]
    free: npt.NDArray[np.uint8]
    colour: npt.NDArray[Any]
    colour_free: npt.NDArray[np.bool_]


class _Tracker:
    def __init__(self, size: Size, small: Size) -> None:
        self._size, self._small = size, small
        self._tiny = Size(
            *(max(8, round(side * _COLOUR_SIDE / max(small.width, small.height))) for side in _sides(small))
        )
        self._to_small = shrinking(size, small)
        self._small_to_tiny = shrinking(small, self._tiny)
        self._orb = _cv.ORB_create(nfeatures=800, fastThreshold=7)
        self._done: list[Segment] = []
        self._meshes = MeshFile()
        self._poses: list[Pose] = []
        self._link: Pose | None = None
        self._anchor: _View | None = None
        self._points: Points = np.zeros((0, 2), np.float32)
        self._has_texture = False
        self._lost: list[tuple[int, _View]] = []
        self._last: _View | None = None
        # The brightest view of the segment so far, where it lies in the anchor, and the anchor's colours in its.
        self._bright: _View | None = None
        self._bright_at: Matrix = np.eye(3)
        self._anchor_colours = SAME_COLOURS
        self._near: npt.NDArray[np.intp] = np.zeros((0, 0), np.intp)
        # Where each point was in the previous frame, hidden ones where their surroundings put them.
        self._where: Points = self._points

    def segments(self) -> tuple[Segment, ...]:
        self._hold()
        self._close()
        return tuple(self._done)

    def add(self, frame: Frame, mask: FrameMask | None) -> None:
        self._take(frame.index, self._view(frame, mask))

    def _take(self, index: int, view: _View) -> None:
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

    def _begin(self, index: int, view: _View) -> None:
        self._close()
        self._poses, self._link = [], None
        self._set_anchor(view)
        self._keep(index, view, Fit(matrix=np.eye(3), error_px=0.0, inliers=len(self._points)))

    def _begin_anew(self) -> None:
        """What was lost for so long shows something else."""
        (index, view), *rest = self._lost
        self._lost = []
        self._begin(index, view)
        for lost in rest:
            self._take(*lost)

    def _hold(self) -> None:
        """Frames that nothing could be followed into, such as a flash, lie where the last one before them did."""
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

    def _keep(self, index: int, view: _View, fit: Fit) -> None:
        assert self._bright is not None
        to_bright = np.linalg.inv(self._bright_at) @ fit.matrix
        gain, offset = _colour_relation(view, self._bright, self._in_tiny(to_bright))
        if is_brighter(self._bright.colour, gain, offset):
            self._see_colours_of(view, fit.matrix, gain, offset)
            gain, offset = SAME_COLOURS
        full = np.linalg.inv(self._to_small) @ fit.matrix @ self._to_small
        scale = self._small.width / self._size.width
        self._poses.append(
            Pose(
                index=index,
                to_anchor=full / full[2, 2],
                gain=gain,
                offset=offset,
                error_px=fit.error_px / scale,
                there=fit.there,
                back=fit.back,
            )
        )
        self._last = view

    def _see_colours_of(self, view: _View, matrix: Matrix, gain: Points, offset: Points) -> None:
        """From here on the segment's colours are those of `view`, whose gain and offset to its old ones are given."""
        self._poses = [
            replace(pose, gain=pose.gain / gain, offset=(pose.offset - offset) / gain) for pose in self._poses
        ]
        self._anchor_colours = self._anchor_colours[0] / gain, (self._anchor_colours[1] - offset) / gain
        self._bright, self._bright_at = view, matrix

    def _in_tiny(self, matrix: Matrix) -> Matrix:
        return np.asarray(self._small_to_tiny @ matrix @ np.linalg.inv(self._small_to_tiny), np.float64)

    def _view(self, frame: Frame, mask: FrameMask | None) -> _View:
        rgb = frame.rgb()
        small = rgb if self._small == self._size else cv2.resize(rgb, _sides(self._small), interpolation=cv2.INTER_AREA)
        bits = np.zeros((self._size.height, self._size.width), np.uint8)
        if mask is not None:
            bits[mask.box.slices] = mask.bits
        covered = cv2.resize(bits * 255, _sides(self._small), interpolation=cv2.INTER_AREA)
        side = 2 * _KEEP_OFF_PX + 1
        free = np.where(cv2.dilate(covered, np.ones((side, side), np.uint8)) > 0, 0, 255).astype(np.uint8)
        tiny = cv2.resize(small, _sides(self._tiny), interpolation=cv2.INTER_AREA).astype(np.float32)
        tiny_free = cv2.resize(free, _sides(self._tiny), interpolation=cv2.INTER_AREA) == 255
        gray, texture = _evened(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        return _View(gray=gray, texture=texture, free=free, colour=tiny, colour_free=tiny_free)

    def _set_anchor(self, view: _View) -> None:
        self._anchor = self._last = self._bright = view
        self._bright_at, self._anchor_colours = np.eye(3), SAME_COLOURS
        textured = np.where(view.texture >= _TEXTURE_LEVELS, view.free, 0).astype(np.uint8)
        self._points = _corners_in(view.gray, textured)
        self._has_texture = len(self._points) >= _FEW_POINTS
        if not self._has_texture:
            self._points = _corners_in(view.gray, view.free)
        self._near, self._where = neighbours(self._points), self._points

    def _align(self, view: _View) -> Fit | None:
        rough = self._rough_by_flow(view)
        if rough is None:
            matrix = self._rough_by_features(view)
            rough = None if matrix is None else (matrix, project(np.linalg.inv(matrix), self._points))
        return self._unless_still(view, None if rough is None else self._fine(view, *rough))

    def _unless_still(self, view: _View, fit: Fit | None) -> Fit | None:
        """The fit where it lays the frame over its anchor better than no motion at all does; a picture without texture
        can be followed anywhere."""
        assert self._anchor is not None
        if fit is not None and fit.is_still:
            return fit
        if fit is None and self._has_texture:
            return None
        soft = cv2.blur(self._anchor.gray, (5, 5)), cv2.blur(view.gray, (5, 5))
        free = (self._anchor.free == 255) & (view.free == 255)
        unmoved = _mean_difference(soft[0], soft[1], free)
        still = Fit(matrix=np.eye(3), error_px=0.0, inliers=len(self._points))
        if fit is None:
            return still if unmoved < _FLAT_DIFFERENCE else None
        laid = cv2.warpPerspective(soft[1], fit.matrix, _sides(self._small))
        seen = cv2.warpPerspective(view.free, fit.matrix, _sides(self._small)) == 255
        moved = _mean_difference(soft[0], laid, seen & (self._anchor.free == 255))
        return still if unmoved <= _STILL_SHARE * moved else fit

    def _rough_by_flow(self, view: _View) -> tuple[Matrix, Points] | None:
        """Points of the anchor followed from the previous frame into this one: the motion and where each point is."""
        assert self._last is not None
        if len(self._points) < MIN_INLIERS:
            return None
        before = self._where.reshape(-1, 1, 2)
        now, found, _ = _cv.calcOpticalFlowPyrLK(self._last.gray, view.gray, before, before.copy(), maxLevel=4, **_LK)
        usable = _is_free(self._where, self._last.free) & (found[:, 0] > 0) & _is_free(now[:, 0], view.free)
        fit = fit_motion(now[usable, 0], self._points[usable], loose=2.0)
        if fit is None:
            return None
        guess = project(np.linalg.inv(fit.matrix), self._points)
        follows = np.linalg.norm(now[:, 0] - guess, axis=1) < _PARALLAX_SHARE * max(view.gray.shape)
        return fit.matrix, np.where((usable & follows)[:, None], now[:, 0], guess)

    def _rough_by_features(self, view: _View) -> Matrix | None:
        assert self._anchor is not None
        there, here = (self._orb.detectAndCompute(each.gray, each.free) for each in (self._anchor, view))
        if there[1] is None or here[1] is None:
            return None
        matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(here[1], there[1])
        if len(matches) < MIN_INLIERS:
            return None
        now = np.array([here[0][match.queryIdx].pt for match in matches], np.float32)
        then = np.array([there[0][match.trainIdx].pt for match in matches], np.float32)
        fit = fit_motion(now, then, loose=2.0)
        return None if fit is None else fit.matrix

    def _fine(self, view: _View, rough: Matrix, guess: Points) -> Fit | None:
        """Points followed from the anchor into this frame laid over it: only a rest of motion, so to sub-pixels."""
        assert self._anchor is not None
        laid = cv2.warpPerspective(view.gray, rough, _sides(self._small), flags=cv2.INTER_CUBIC)
        there, found, _ = _cv.calcOpticalFlowPyrLK(
            self._anchor.gray,
            laid,
            self._points.reshape(-1, 1, 2),
            project(rough, guess).reshape(-1, 1, 2),
            maxLevel=1,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            **_LK,
        )
        now = project(np.linalg.inv(rough), there)
        usable = (found[:, 0] > 0) & _is_free(now, view.free)
        fit = fit_motion(now[usable], self._points[usable])
        if fit is None:
            return None
        rest = self._points - project(fit.matrix, now)
        together = staying_together(rest, usable, self._near)
        strength = mesh_strength(rest[together])
        self._where = project(np.linalg.inv(fit.matrix), self._points)
        # A camera that stands still has no parallax: what moves then are things.
        if strength and not fit.is_still:
            fit.bend_px = float(np.percentile(np.linalg.norm(rest[together], axis=1), 90))
            kept = rest[together] * np.float32(strength)
            fit.there = make_mesh(now[together], kept, self._small, self._size, self._meshes)
            fit.back = make_mesh(self._points[together], kept, self._small, self._size, self._meshes)
            seen_here = shifts_at(self._points, self._points[together], rest[together])
            self._where = project(np.linalg.inv(fit.matrix), self._points - seen_here)
            self._where[together] = now[together]
        return fit

    def _has_moved_on(self, fit: Fit) -> bool:
        quad = project(fit.matrix, corners(self._small))
        area, _ = cv2.intersectConvexConvex(quad, corners(self._small))
        total = float((self._small.width - 1) * (self._small.height - 1))
        zoom = math.sqrt(max(abs(float(np.linalg.det(fit.matrix[:2, :2]))), 1e-6))
        few = fit.inliers < max(MIN_INLIERS, len(self._points) // 5)
        return area < _MIN_OVERLAP * total or not 1 / _MAX_ZOOM < zoom < _MAX_ZOOM or few or fit.bend_px > _MAX_BEND_PX


def _unmoved(index: int) -> Pose:
    return Pose(index=index, to_anchor=np.eye(3), gain=SAME_COLOURS[0], offset=SAME_COLOURS[1], error_px=0.0)


def _mean_difference(a: npt.NDArray[Any], b: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> float:
    return float(cv2.absdiff(a, b)[where].mean()) if where.any() else 255.0


def _corners_in(gray: npt.NDArray[np.uint8], where: npt.NDArray[np.uint8]) -> Points:
    found = cv2.goodFeaturesToTrack(gray, _MAX_POINTS, 0.003, _POINT_DISTANCE_PX, mask=where)
    return np.asarray(() if found is None else found, np.float32).reshape(-1, 2)


def _evened(gray: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Brightness and contrast evened out over some 20 pixels, so that light may change between frames; and the contrast
    that was there (standard deviation, levels)."""
    levels = gray.astype(np.float32)
    mean = cv2.blur(levels, (21, 21))
    spread = np.sqrt(np.maximum(cv2.blur(levels * levels, (21, 21)) - mean * mean, 0))
    return np.asarray(np.clip(128 + 48 * (levels - mean) / (spread + 6), 0, 255), np.uint8), spread


def _sides(size: Size) -> tuple[int, int]:
    return size.width, size.height


def _is_free(points: Points, free: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which (N, 2) points lie inside the frame and outside its mask."""
    x, y = (np.rint(np.clip(np.nan_to_num(points[:, axis]), -1e6, 1e6)).astype(np.int64) for axis in (0, 1))
    inside = (x >= 2) & (y >= 2) & (x < free.shape[1] - 2) & (y < free.shape[0] - 2)
    return np.asarray(inside & (free[np.where(inside, y, 0), np.where(inside, x, 0)] > 0), np.bool_)


def _colour_relation(view: _View, anchor: _View, matrix: Matrix) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Gain and offset, by channel, that take a frame's colours to those of `anchor`; outliers are left out."""
    size = (anchor.colour.shape[1], anchor.colour.shape[0])
    if view is anchor:
        return SAME_COLOURS
    laid = cv2.warpPerspective(view.colour, matrix, size, flags=cv2.INTER_LINEAR)
    free = cv2.warpPerspective(view.colour_free.astype(np.float32), matrix, size) > 0.99
    usable = free & anchor.colour_free
    if usable.sum() < 64:
        return SAME_COLOURS
    return match_colours(laid[usable], anchor.colour[usable])


def box_of(points: Points) -> Box:
    """The smallest box of pixels that holds all (N, 2) pixel centres."""
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)
