"""Identities by ByteTrack and BoT-SORT, and the camera's motion."""

from __future__ import annotations

import cv2
import numpy as np

from tests.support.sightings import seen_at
from vace_batch.geometry import Box, Size
from vace_batch.masks.tracking.objects import TrackedObject, track_shot
from vace_batch.masks.tracking.trackers import CameraMotion, group_by_object

SIZE = Size(320, 200)


def frames_of(track: TrackedObject) -> list[int]:
    return [one.index for one in track.sightings]


def test_botsort_takes_the_motion_of_the_camera_out() -> None:
    """A camera that is jerked to and fro: seen from it, two still lookalikes change places with where the other was."""
    jerk = [0, 0, 0, 60, 0, 60, 0, 60, 0, 60]
    boxes = {index: [Box(120 + dx, 80, 30, 30), Box(60 + dx, 80, 30, 30)] for index, dx in enumerate(jerk)}
    sightings = [seen_at(index, box) for index, pair in boxes.items() for box in pair]
    warps = [np.array([[1.0, 0, step], [0, 1, 0]]) for step in np.diff([0, *jerk])]
    found = track_shot(sightings, (0, 10), sure=0.25, unsure=0.1, warps=warps)
    assert [frames_of(track) for track in found] == [list(range(10))] * 2
    for track in found:
        assert len({one.box.x - dx for one, dx in zip(track.sightings, jerk, strict=True)}) == 1
    without = track_shot(sightings, (0, 10), sure=0.25, unsure=0.1)
    assert [[one.box.x for one in track.sightings] for track in without] != [
        [one.box.x for one in track.sightings] for track in found
    ]


def test_the_camera_is_measured_at_display_scale() -> None:
    random = np.random.default_rng(0)
    scene = cv2.resize(random.integers(0, 256, (60, 100, 3), np.uint8), (400, 240), interpolation=cv2.INTER_CUBIC)
    camera = CameraMotion()
    for left in (0, 4, 10):
        camera.see(scene[20:200, left : left + 320], Size(1280, 720))
    camera.see(np.zeros((180, 320, 3), np.uint8), Size(1280, 720))
    moves = [warp[0, 2] for warp in camera.warps]
    assert moves[0] == 0 and abs(moves[1] + 16) < 1 and abs(moves[2] + 24) < 1 and len(moves) == 4


def rows(*boxes: tuple[int, int, int, int, float]) -> np.ndarray:
    """Left, top, right, bottom and confidence of each detection."""
    return np.array(boxes, np.float64).reshape(-1, 5)


def test_detections_are_grouped_by_their_numbers_in_the_shot() -> None:
    """Two objects side by side; one is missed on a frame, and the other is doubtful at last."""
    frames = []
    number = 0
    for index in range(6):
        boxes = [(10 + 4 * index, 40, 40 + 4 * index, 70, 0.9)] if index != 3 else []
        boxes.append((200, 100 + 2 * index, 240, 140 + 2 * index, 0.9 if index < 4 else 0.15))
        frames.append((number, rows(*boxes)))
        number += len(boxes)
    groups = group_by_object(frames, 0.25, 0.1, 30)
    assert sorted(groups) == [[0, 2, 4, 7, 9], [1, 3, 5, 6, 8, 10]]


def test_doubtful_detections_begin_no_object() -> None:
    frames = [(index, rows((10, 40, 40, 70, 0.2))) for index in range(5)]
    assert group_by_object(frames, 0.25, 0.1, 30) == []
    assert group_by_object([(0, rows())] * 3, 0.25, 0.1, 30) == []
