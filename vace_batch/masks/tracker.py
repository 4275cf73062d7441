"""Identities from frame to frame: ByteTrack, as ultralytics has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from vace_batch.masks.detect import import_ultralytics

# Boxes are compared with this share of their longer side around them, or a ball that moves by more than its own width
# from frame to frame would never meet itself.
_REACH = 0.75
_MOST_DISTANCE = 0.9

Rows = npt.NDArray[np.float64]


def follow(frames: Sequence[tuple[int, Rows]], sure: float, unsure: float, lost_frames: int) -> list[list[int]]:
    """Group the detections of one class over a shot: lists of their numbers, each list one object, in order of frames.

    `frames` has, by rising frame, a detection's number in the whole shot's list and rows (n, 5) of left, top, right,
    bottom and confidence; numbers count on from frame to frame. Objects begin with `sure` ones and go on with `unsure`
    ones. What belongs to no object is in no list.
    """
    import_ultralytics()
    from ultralytics.engine.results import Boxes
    from ultralytics.trackers.byte_tracker import BYTETracker

    tracker = BYTETracker(
        SimpleNamespace(
            track_high_thresh=sure,
            track_low_thresh=unsure,
            new_track_thresh=sure,
            track_buffer=lost_frames,
            match_thresh=_MOST_DISTANCE,
            fuse_score=False,
        )
    )
    groups: dict[int, list[int]] = defaultdict(list)
    for first, rows in frames:
        boxes = np.column_stack([_reaching(rows), np.zeros(len(rows))]).astype(np.float32)
        for *_, track, _, _, number in tracker.update(Boxes(boxes, (1, 1))):
            groups[int(track)].append(first + int(number))
    return list(groups.values())


def _reaching(rows: Rows) -> Rows:
    reach = _REACH * (rows[:, 2:4] - rows[:, :2]).max(axis=1, initial=0, keepdims=True)
    return np.column_stack([rows[:, :2] - reach, rows[:, 2:4] + reach, rows[:, 4]])
