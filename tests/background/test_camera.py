"""The camera's way: each frame is aligned to its anchor, and a new view begins a new segment."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.support.background_scenes import (
    NUM_FRAMES,
    SIZE,
    Motion,
    panning,
    psnr,
    scenery,
    seen_through,
    shaking,
    share_known,
    still,
    views,
    with_object,
)
from vace_batch.background.camera import track_camera


def test_a_still_camera_is_exactly_still() -> None:
    clip = with_object(views(still))
    (segment,) = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert all(pose.is_still for pose in segment.poses)


def test_a_cut_of_the_view_breaks_the_chain_but_not_the_run() -> None:
    first, second = scenery(1), scenery(9)
    truth = [seen_through(panning, first if index < 12 else second, index) for index in range(NUM_FRAMES)]
    clip = with_object(truth)
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert 12 in [segment.start for segment in segments if segment.link is None]
    assert psnr(clip.errors(clip.recovered())) > 36


def test_a_picture_without_texture_stands_still() -> None:
    rows = np.mgrid[: SIZE.height, : SIZE.width][0]
    sky = np.stack([120 + rows * 0.3, 160 + rows * 0.2, np.full_like(rows, 220)], axis=-1).astype(np.uint8)
    clip = with_object([sky] * NUM_FRAMES)
    (segment,) = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert all(pose.is_still for pose in segment.poses)
    assert share_known(clip.recovered(), clip) > 0.98


def test_noise_that_stays_on_the_screen_is_no_scene() -> None:
    """Codecs leave a flat sky's noise where it was while the camera moves on."""
    picture = scenery()
    picture[:190] = (150, 190, 230)
    screen = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 12, (SIZE.height, SIZE.width, 3)), (0, 0), 2.0)
    truth = [
        np.where(view == (150, 190, 230), np.clip(view + screen, 0, 255), view).astype(np.uint8)
        for view in views(panning, picture)
    ]
    clip = with_object(truth, lambda index: (60 + 9 * index, 150))
    for segment in track_camera(clip.read, clip.masks_in, clip.shot, SIZE):
        assert all(pose.back is None for pose in segment.poses)


def test_after_a_flash_the_scene_goes_on() -> None:
    truth = list(views(still))
    truth[7] = np.random.default_rng(5).integers(200, 255, truth[7].shape, np.uint8)
    clip = with_object(truth)
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert [pose.index for segment in segments for pose in segment.poses] == list(range(NUM_FRAMES))
    assert all(segment.link is not None for segment in segments[1:])
    found = [each for each in clip.recovered() if each.index != 7]
    assert share_known(found, clip) > 0.93
    assert psnr(clip.errors(found)) > 40


@pytest.mark.parametrize("motion", [panning, shaking])
def test_poses_are_the_motion_of_the_scene(motion: Motion) -> None:
    clip = with_object(views(motion))
    corners = np.array([[[0, 0], [SIZE.width - 1, 0]], [[0, SIZE.height - 1], [160, 90]]], np.float32)
    for segment in track_camera(clip.read, clip.masks_in, clip.shot, SIZE):
        anchor = segment.start if segment.link is None else segment.link.index
        for pose in segment.poses:
            truth = np.linalg.inv(motion(anchor)) @ motion(pose.index)
            expected = cv2.perspectiveTransform(corners, truth)
            assert np.abs(pose.flat().in_anchor(corners) - expected).max() < 0.6, pose.index
