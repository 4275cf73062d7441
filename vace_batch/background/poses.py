"""Poses: the place of each frame in its anchor frame, for the frames of a shot in segments that share an anchor.

Matrices are 3x3 float64 and map (x, y) pixel centres of full-size frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.motion import Matrix
from vace_batch.background.parallax import Mesh, Points
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask
from vace_batch.video.frame import Frame
from vace_batch.video.read_ahead import CHUNK_FRAMES

ReadFrames = Callable[[int, int], Iterator[Frame]]
ReadMasks = Callable[[int, int], Mapping[int, FrameMask]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """One frame against its anchor: `to_anchor` maps the frame's pixels to the anchor's.

    gain * colour + offset (RGB) takes the frame's colours to the segment's, which are those of the segment's brightest
    frame. `there` and `back` correct `to_anchor` for parallax, and are None for a flat scene: a pixel x of the frame
    lies at to_anchor(x) + there(x), and a pixel a of the anchor at the inverse of to_anchor of a - back(a). `error_px`
    is the median distance, in full-size pixels, of tracked points from the motion's prediction.
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
        """Return the pose without its meshes."""
        return self if self.back is None else replace(self, back=None, there=None)

    def in_anchor(self, places_xy: Points) -> Points:
        """Map (h, w, 2) pixels of the frame to the anchor."""
        moved = cv2.perspectiveTransform(places_xy, self.to_anchor)
        return np.asarray(moved if self.there is None else moved + self.there.at(places_xy), np.float32)

    def in_frame(self, places_xy: Points) -> Points:
        """Map (h, w, 2) pixels of the anchor to the frame."""
        moved = places_xy if self.back is None else places_xy - self.back.at(places_xy)
        return np.asarray(cv2.perspectiveTransform(moved, np.linalg.inv(self.to_anchor)), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive frames that share an anchor.

    `link` is the pose of the anchor's frame in the segment before, with the gain and offset that take this segment's
    colours to that segment's; None if the two segments are unrelated.
    """

    poses: tuple[Pose, ...]
    link: Pose | None

    @property
    def start(self) -> int:
        return self.poses[0].index

    @property
    def stop(self) -> int:
        return self.poses[-1].index + 1


def with_masks(read: ReadFrames, masks: ReadMasks, start: int, stop: int) -> Iterator[tuple[Frame, FrameMask | None]]:
    """Yield frames start..stop-1, each with its mask; masks are read a chunk of frames at a time."""
    held: Mapping[int, FrameMask] = {}
    known_to = start
    for frame in read(start, stop):
        if frame.index >= known_to:
            known_to = min(stop, frame.index + CHUNK_FRAMES)
            held = masks(frame.index, known_to)
        yield frame, held.get(frame.index)


def masks_of(masks: ReadMasks, poses: Sequence[Pose]) -> Iterator[tuple[Pose, FrameMask | None]]:
    """Yield each pose with its frame's mask; masks are read a chunk of frames at a time."""
    for first in range(0, len(poses), CHUNK_FRAMES):
        part = poses[first : first + CHUNK_FRAMES]
        held = masks(part[0].index, part[-1].index + 1)
        for pose in part:
            yield pose, held.get(pose.index)


def corners(size: Size) -> Points:
    """Return the four outer pixel centres of a frame, clockwise from the upper left."""
    right, bottom = size.width - 1, size.height - 1
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32)


def box_of(points: Points) -> Box:
    """Return the smallest box of pixels that holds all (N, 2) pixel centres."""
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)
