"""Group detections into objects by ultralytics' ByteTrack and BoT-SORT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Size
from vace_batch.masks.detectors.ultralytics_private import set_camera_motion
from vace_batch.masks.detectors.yolo import import_ultralytics

# Boxes are padded by this share of their longer side: a ball that moves by more than its own width from frame to
# frame would never overlap itself.
_REACH = 0.75
_MOST_DISTANCE = 0.9

Rows = npt.NDArray[np.float64]
Warp = npt.NDArray[np.float64]
"""The affine map (2, 3) from a frame's pixels to the next frame's."""


class CameraMotion:
    """The picture's motion from frame to frame, as BoT-SORT measures it; `warps` has one entry a frame."""

    LONGEST_PX = 320

    def __init__(self) -> None:
        import_ultralytics()
        from ultralytics.trackers.utils.gmc import GMC

        self._gmc = GMC(method="sparseOptFlow", downscale=1)
        self.warps: list[Warp] = []

    def see(self, rgb_HWC: npt.NDArray[np.uint8], display: Size) -> None:
        """Measure the motion to the next frame of a shot, which shows a picture of `display` size."""
        try:
            warp = np.array(self._gmc.apply(np.ascontiguousarray(rgb_HWC[..., ::-1])), np.float64)
        except cv2.error:  # the frame has no corner to follow
            warp = np.eye(2, 3)
        warp[:, 2] *= display.width / rgb_HWC.shape[1]
        self.warps.append(warp)


def group_by_object(
    frames: Sequence[tuple[int, Rows]],
    sure: float,
    unsure: float,
    lost_frames: int,
    warps: Sequence[Warp] | None = None,
) -> list[list[int]]:
    """Group the detections of one class over a shot: lists of their numbers, one list an object, in order of frames.

    `frames` has, by rising frame, the number of its first detection in the whole shot's list and rows (n, 5) of left,
    top, right, bottom and confidence. Objects begin with detections of confidence `sure` and go on with `unsure` ones.
    Detections of no object are in no list. ByteTrack runs, or BoT-SORT with `warps`, one a frame.
    """
    import_ultralytics()
    from ultralytics.engine.results import Boxes
    from ultralytics.trackers.bot_sort import BOTSORT
    from ultralytics.trackers.byte_tracker import BYTETracker

    settings = SimpleNamespace(
        track_high_thresh=sure,
        track_low_thresh=unsure,
        new_track_thresh=sure,
        track_buffer=lost_frames,
        match_thresh=_MOST_DISTANCE,
        fuse_score=False,
        gmc_method=None,
        proximity_thresh=0.5,
        appearance_thresh=0.8,
        with_reid=False,
    )
    tracker: Any = BYTETracker(settings) if warps is None else BOTSORT(settings)
    picture = None
    if warps is not None:  # the camera's motion was measured while the frames were read
        set_camera_motion(tracker, warps)
        picture = np.zeros((1, 1, 3), np.uint8)
    groups: dict[int, list[int]] = defaultdict(list)
    for first, rows in frames:
        boxes = np.column_stack([_reaching(rows), np.zeros(len(rows))]).astype(np.float32)
        for *_, track, _, _, number in tracker.update(Boxes(boxes, (1, 1)), picture):
            groups[int(track)].append(first + int(number))
    return list(groups.values())


def _reaching(rows: Rows) -> Rows:
    """Pad each box by `_REACH` of its longer side."""
    reach = _REACH * (rows[:, 2:4] - rows[:, :2]).max(axis=1, initial=0, keepdims=True)
    return np.column_stack([rows[:, :2] - reach, rows[:, 2:4] + reach, rows[:, 4]])
