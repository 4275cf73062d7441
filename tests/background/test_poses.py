"""Poses: pixels go to the anchor and come back, and masks are read in chunks."""

from __future__ import annotations

import numpy as np

from vace_batch.background.poses import Pose, box_of, corners, masks_of
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, box_mask


def turned(index: int = 0) -> Pose:
    turn = np.array([[0.9, -0.2, 12.0], [0.2, 0.9, -3.0], [0.0001, 0, 1]])
    return Pose(index=index, to_anchor=turn, gain=np.ones(3), offset=np.zeros(3), error_px=0.0)


def test_a_pixel_goes_to_the_anchor_and_back() -> None:
    places = np.array([[[3.0, 4.0], [50.0, 20.0]]], np.float32)
    there = turned().in_anchor(places)
    assert np.abs(there - places).max() > 2
    np.testing.assert_allclose(turned().in_frame(there), places, atol=1e-3)


def test_boxes_hold_all_pixel_centres() -> None:
    assert box_of(corners(Size(64, 48))) == Box(0, 0, 64, 48)
    assert box_of(np.array([[0.2, 3.0], [2.5, 3.0]])) == Box(0, 3, 4, 1)


def test_masks_are_read_a_chunk_at_a_time() -> None:
    asked = []

    def read(start: int, stop: int) -> dict[int, FrameMask]:
        asked.append((start, stop))
        return {index: box_mask(index, Box(0, 0, 2, 2)) for index in range(start, stop) if index % 2}

    pairs = list(masks_of(read, [turned(index) for index in range(5, 105)]))
    assert asked == [(5, 69), (69, 105)]
    assert [pose.index for pose, _ in pairs] == list(range(5, 105))
    assert all((mask is not None) == bool(pose.index % 2) for pose, mask in pairs)
