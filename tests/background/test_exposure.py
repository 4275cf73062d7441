"""Light that changes, pictures that turn into others, and parts that show nothing to follow."""

from __future__ import annotations

import numpy as np

from tests.support.background_scenes import (
    NUM_FRAMES,
    SIZE,
    Picture,
    psnr,
    scenery,
    share_known,
    still,
    views,
    with_object,
)
from vace_batch.background.camera import track_camera
from vace_batch.background.exposure import match_colours


def shown_at(picture: Picture, share: float) -> Picture:
    return np.clip(picture * share, 0, 255).astype(np.uint8)


def test_a_shot_that_fades_in_and_out_of_black_is_recovered() -> None:
    shares = [min(1.0, (index + 0.08) / 8, (NUM_FRAMES - 0.92 - index) / 8) for index in range(NUM_FRAMES)]
    truth = [shown_at(picture, share) for picture, share in zip(views(still), shares, strict=True)]
    clip = with_object(truth)
    found = clip.recovered()
    assert share_known(found, clip) > 0.9  # the two frames that are black say nothing
    assert psnr(clip.errors(found)) > 37
    assert found[1].rgb[found[1].known].max() < 0.14 * 255 + 8
    # What frames agree on is judged in the colours of the brightest: in those of the darkest all would agree.
    for segment in track_camera(clip.read, clip.masks_in, clip.shot, SIZE)[1:-1]:
        assert min(float(np.median(pose.gain)) for pose in segment.poses) > 0.6


def test_colours_cross_from_segment_to_segment() -> None:
    """In a pan that outruns its anchor while the light rises, colours must fit across segments."""
    shares = 0.12 * 8 ** (np.arange(NUM_FRAMES) / NUM_FRAMES)
    truth = [shown_at(picture, share) for picture, share in zip(views(far_panning, wide()), shares, strict=True)]
    clip = with_object(truth, lambda index: (200, 90))
    segments = track_camera(clip.read, clip.masks_in, clip.shot, SIZE)
    assert len(segments) > 1 and segments[1].link is not None
    # The frame that gives a segment its colours: one of its own, or its anchor.
    ways = [
        next((pose.index for pose in each.poses if (pose.gain == 1).all()), each.link.index if each.link else -1)
        for each in segments[:2]
    ]
    assert ways[1] > segments[1].start
    np.testing.assert_allclose(segments[1].link.gain, shares[ways[0]] / shares[ways[1]], rtol=0.15)
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


def test_a_logo_before_a_plain_wall_is_no_work_for_the_model() -> None:
    """A logo before an edge is left to the model: the edge behind the logo would be a guess."""
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    wall = np.stack([90 + rows * 0.3, 120 + columns * 0.2, np.full_like(rows, 150)], axis=-1).astype(np.uint8)
    clip = with_object([wall] * 6, lambda index: (150, 90))
    found = clip.recovered()
    assert share_known(found, clip) == 1
    assert psnr(clip.errors(found)) > 40
    wall[:, 150:] //= 3
    assert share_known(with_object([wall] * 6, lambda index: (150, 90)).recovered(), clip) == 0


def test_after_a_bright_start_nothing_is_clipped() -> None:
    truth = list(views(still))
    truth[0] = np.clip(truth[0] * 1.7 + 60.0, 0, 255).astype(np.uint8)
    clip = with_object(truth)
    found = [each for each in clip.recovered() if each.index]
    bright = [truth[each.index][each.box.slices][each.known].min(axis=1) > 150 for each in found]
    errors = clip.errors(found)[np.concatenate(bright)]
    assert len(errors) > 200 and abs(errors.mean()) < 1
