"""Light that changes, pictures that turn into others, and parts that show nothing to follow."""

from __future__ import annotations

import cv2
import numpy as np

from tests.unit.test_background import (
    NUM_FRAMES,
    SIZE,
    Picture,
    panning,
    psnr,
    scenery,
    share_known,
    views,
    with_object,
)
from tests.unit.test_background import still as not_moving
from vace_batch.background import track_camera
from vace_batch.background.light import match_colours


def shown_at(picture: Picture, share: float) -> Picture:
    return np.clip(picture * share, 0, 255).astype(np.uint8)


def test_a_shot_that_fades_in_and_out_of_black_is_recovered() -> None:
    shares = [min(1.0, (index + 0.08) / 8, (NUM_FRAMES - 0.92 - index) / 8) for index in range(NUM_FRAMES)]
    truth = [shown_at(picture, share) for picture, share in zip(views(not_moving), shares, strict=True)]
    clip = with_object(truth)
    found = clip.recovered()
    assert share_known(found, clip) > 0.9  # the two frames that are black say nothing
    assert psnr(clip.errors(found)) > 37
    assert found[1].rgb[found[1].known].max() < 0.14 * 255 + 8


def test_colours_cross_from_segment_to_segment() -> None:
    """A pan that outruns its anchor while the light rises: what the segments before it show has to fit."""
    truth = [shown_at(picture, 0.25 + 0.75 * n / NUM_FRAMES) for n, picture in enumerate(views(far_panning, wide()))]
    clip = with_object(truth, lambda index: (200, 90))
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert len(segments) > 1 and segments[1].link is not None
    found = clip.recovered()
    assert share_known(found, clip) > 0.9
    assert psnr(clip.errors(found)) > 33


def far_panning(index: int) -> np.ndarray:
    return np.array([[1.0, 0, 20 + 11.3 * index], [0, 1, 80], [0, 0, 1]])


def wide() -> Picture:
    return scenery(width=1000)


def test_a_dissolve_is_followed_through_its_middle() -> None:
    first, second = scenery(1)[80:260, 150:470], scenery(2)[80:260, 150:470]
    shares = np.clip((np.arange(NUM_FRAMES) - 8) / 8, 0, 1)
    clip = with_object([(first * (1 - share) + second * share).astype(np.uint8) for share in shares])
    found = [each for each in clip.recovered() if 0 < shares[each.index] < 1]
    known = sum(int(each.known.sum()) for each in found) / sum(each.known.size for each in found)
    assert known > 0.3
    assert psnr(clip.errors(found)) > 32


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


def test_colours_that_faded_and_colours_of_another_picture() -> None:
    rng = np.random.default_rng(0)
    bright = rng.uniform(20, 240, (2000, 3)).astype(np.float32)
    gain, offset = match_colours(np.rint(bright / 10), bright)
    np.testing.assert_allclose(gain, 10, rtol=0.1)
    np.testing.assert_allclose(gain * 10 + offset, 100, atol=5)
    gain, _ = match_colours(np.zeros_like(bright), bright)
    assert (gain == 50).all()
    gain, _ = match_colours(rng.permutation(bright), bright)
    np.testing.assert_array_equal(gain, 1)


def test_after_a_flash_the_scene_goes_on() -> None:
    truth = list(views(not_moving))
    truth[7] = np.random.default_rng(5).integers(200, 255, truth[7].shape, np.uint8)
    clip = with_object(truth)
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert [pose.index for segment in segments for pose in segment.poses] == list(range(NUM_FRAMES))
    assert all(segment.link is not None for segment in segments[1:])
    found = [each for each in clip.recovered() if each.index != 7]
    assert share_known(found, clip) > 0.93
    assert psnr(clip.errors(found)) > 40


def test_a_logo_before_a_plain_wall_is_no_work_for_the_model() -> None:
    """And one at an edge of it is: what the edge does behind the logo is a guess."""
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    wall = np.stack([90 + rows * 0.3, 120 + columns * 0.2, np.full_like(rows, 150)], axis=-1).astype(np.uint8)
    clip = with_object([wall] * 6, lambda index: (150, 90))
    found = clip.recovered()
    assert share_known(found, clip) == 1
    assert psnr(clip.errors(found)) > 40
    wall[:, 150:] //= 3
    assert share_known(with_object([wall] * 6, lambda index: (150, 90)).recovered(), clip) == 0
