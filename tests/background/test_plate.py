"""Plates: the pixels that most frames agree on, in the anchor's place."""

from __future__ import annotations

import numpy as np

from tests.support.background_scenes import SIZE, Clip, still, views, with_object
from vace_batch.background.camera import track_camera
from vace_batch.background.plate import (
    MaskedFrames,
    Plate,
    contrast_of,
    is_inside,
    largest,
    make_plates,
    pixel_grid,
    sample,
    smooth_difference,
)
from vace_batch.geometry import Box, Bridging


def plates_of(clip: Clip, bridging: Bridging | None = None) -> tuple[Plate, ...]:
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    return make_plates(MaskedFrames(read=clip.read, masks=clip.masks_in, size=SIZE), segments, 0, 16, bridging)


def test_a_plate_is_the_background_under_all_masks() -> None:
    clip = with_object(views(still))
    (plate,) = plates_of(clip)
    covered = np.zeros((SIZE.height, SIZE.width), np.bool_)
    for mask in clip.masks.values():
        covered |= mask.full(SIZE)
    inside = covered[plate.box.slices]
    assert inside.sum() == covered.sum(), "the box holds every mask"
    assert plate.known[inside].mean() > 0.95
    truth = clip.truth[0][plate.box.slices].astype(np.float32)
    assert np.abs(plate.rgb - truth)[plate.known].mean() < 2


def test_a_pixel_that_is_hidden_in_every_frame_stays_unknown() -> None:
    parked = with_object(views(still), lambda index: (160, 90))
    (plate,) = plates_of(parked)
    hidden = parked.masks[0].full(SIZE)[plate.box.slices]
    assert not plate.known[hidden].any() and plate.known[~hidden].mean() > 0.9
    assert plate.bridged is None and plates_of(parked, Bridging())[0].bridged is not None


def test_frames_that_disagree_leave_a_pixel_unknown() -> None:
    truth = views(still)
    for index, picture in enumerate(truth):
        picture[40:60, 40:60] = np.random.default_rng(index).integers(0, 255, (20, 20, 3), np.uint8).mean(axis=(0, 1))
        picture[40:60, 40:60] += np.uint8(8 * (index % 12))
    clip = with_object(truth, lambda index: (50, 50) if index < 2 else (150 + 5 * index, 100))
    (plate,) = plates_of(clip)
    flicker = Box(42, 42, 16, 16).slices_in(plate.box)
    assert plate.known[flicker].mean() < 0.2


def test_a_segment_without_masks_has_no_plate() -> None:
    clip = with_object(views(still))
    assert plates_of(Clip(clip.frames, clip.truth, {})) == ()


def test_pixels_are_looked_up_between_pixels() -> None:
    grid = pixel_grid(Box(3, 5, 4, 2))
    assert grid.shape == (2, 4, 2) and (grid[1, 3] == (6, 6)).all()
    ramp = np.repeat(pixel_grid(Box(0, 0, 30, 20))[..., :1], 3, axis=2)
    np.testing.assert_allclose(sample(ramp, np.array([[[10.5, 8.25]]], np.float32))[0, 0], 10.5, atol=0.05)
    bits = np.ones((10, 10), np.bool_)
    bits[5, 5] = False
    places = np.array([[[2.5, 2.5], [4.5, 4.5], [9.5, 2.0], [-0.5, 2.0]]], np.float32)
    assert is_inside(bits, places).tolist() == [[True, False, False, False]]


def test_differences_are_judged_over_seen_pixels_and_the_largest_channel() -> None:
    difference = np.zeros((9, 9, 3), np.float32)
    difference[:, 5:] = (10, -30, 20)
    seen = np.zeros((9, 9), np.bool_)
    seen[:, 5:] = True
    np.testing.assert_allclose(smooth_difference(difference, seen)[4, 5], (10, -30, 20), atol=1e-4)
    assert largest(difference)[0, 8] == 20
    picture = np.zeros((9, 9, 3), np.float32)
    picture[:, 5:] = 90
    assert contrast_of(picture)[4].round().tolist() == [0, 0, 0, 0, 90, 90, 0, 0, 0]
