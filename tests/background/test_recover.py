"""Background under a mask, recovered from other frames of synthetic shots, against the true background."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.support.background_scenes import (
    NUM_FRAMES,
    SIZE,
    Clip,
    Motion,
    Picture,
    moving,
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
from vace_batch.background.recover import BackgroundSettings, recover
from vace_batch.geometry import Box, Bridging, Size
from vace_batch.masks.store import make_mask


@pytest.mark.parametrize(("motion", "least"), [(still, 42.0), (panning, 39.0), (shaking, 37.0)])
def test_what_other_frames_show_is_recovered(motion: Motion, least: float) -> None:
    clip = with_object(views(motion))
    found = clip.recovered()
    assert [each.index for each in found] == list(range(NUM_FRAMES))
    assert share_known(found, clip) > 0.98
    assert psnr(clip.errors(found)) > least


def test_known_pixels_lie_under_the_mask() -> None:
    clip = with_object(views(panning))
    for each in clip.recovered():
        mask = clip.masks[each.index]
        assert each.box == mask.box
        assert not (each.known & ~mask.bits).any()


def test_the_background_of_a_parked_object_is_not_known() -> None:
    clip = with_object(views(still), lambda index: (150, 90))
    assert not any(each.known.any() for each in clip.recovered())


def test_a_logo_over_a_moving_camera_is_recovered() -> None:
    clip = with_object(views(panning), lambda index: (40, 30), radius=14)
    found = clip.recovered()
    assert share_known(found, clip) > 0.95
    assert psnr(clip.errors(found)) > 38


def test_a_light_that_changes_makes_no_step() -> None:
    truth = [
        np.clip(picture * (0.55 + 0.02 * index) + index / 2, 0, 255).astype(np.uint8)
        for index, picture in enumerate(views(still))
    ]
    clip = with_object(truth)
    found = clip.recovered()
    assert share_known(found, clip) > 0.98
    assert psnr(clip.errors(found)) > 40
    for each in found:
        assert abs(float(clip.errors([each]).mean())) < 0.6


def waves(index: int) -> Picture:
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    height = np.sin(x / 7 + index * 0.9) + np.sin(x / 4 - y / 6 + index * 1.7) + np.sin(y / 3 + x / 19 + index * 1.3)
    return np.clip(110 + 16 * height[..., None] * np.array([1, 0.9, 0.7]), 0, 255).astype(np.uint8)


def crowd(index: int) -> Picture:
    picture = views(still, count=1)[0].copy()
    rng = np.random.default_rng(3)
    for _ in range(60):
        x, y, speed, size = rng.uniform(0, 320), rng.uniform(20, 170), rng.uniform(-8, 8), int(rng.integers(8, 16))
        colour = [int(value) for value in rng.integers(0, 255, 3)]
        cv2.ellipse(picture, (int((x + speed * index) % 320), int(y)), (size, 2 * size), 0, 0, 360, colour, -1)
    return picture


def white_noise(index: int) -> Picture:
    return np.random.default_rng(index).integers(0, 256, (SIZE.height, SIZE.width, 3), np.uint8)


@pytest.mark.parametrize("scene", [waves, crowd, white_noise])
def test_what_never_keeps_still_is_right_or_not_claimed(scene: Callable[[int], Picture]) -> None:
    clip = with_object([scene(index) for index in range(NUM_FRAMES)])
    found = clip.recovered()
    assert share_known(found, clip) < 0.35 or psnr(clip.errors(found)) > 30


def test_water_beside_firm_ground_is_told_apart() -> None:
    ground = views(still)
    truth = [np.concatenate([picture[:100], waves(index)[100:]]) for index, picture in enumerate(ground)]
    clip = with_object(truth)
    found = clip.recovered()
    firm = [each.known[: max(0, 98 - each.box.y)] for each in found]
    bits = [clip.masks[each.index].bits[: max(0, 98 - each.box.y)] for each in found]
    assert sum(part.sum() for part in firm) > 0.9 * sum(part.sum() for part in bits)
    assert psnr(clip.errors(found)) > 30


def test_grain_is_no_reason_to_doubt() -> None:
    clip = with_object(views(still), noise=8)
    found = clip.recovered()
    assert share_known(found, clip) > 0.97
    assert psnr(clip.errors(found)) > 35


def test_someone_who_passes_the_hole_is_not_cut_through() -> None:
    clip = with_object(views(still))
    frames = list(clip.frames)
    clean = share_known(clip.recovered(), clip)
    x, y = moving(12)
    person = frames[12].copy()
    cv2.rectangle(person, (x + 10, y - 40), (x + 60, y + 40), (20, 200, 240), -1)
    frames[12] = np.where(clip.masks[12].full(SIZE)[..., None], frames[12], person)
    found = Clip(frames, clip.truth, clip.masks).recovered()
    assert clean > 0.98
    assert found[12].known.sum() < 0.9 * clip.masks[12].bits.sum()
    assert found[11].known.sum() > 0.98 * clip.masks[11].bits.sum()


def two_depths() -> list[Picture]:
    far, near = scenery(1), scenery(2)
    truth = []
    for index in range(NUM_FRAMES):
        shift = np.array([[1.0, 0, 100 + 2 * index], [0, 1, 80], [0, 0, 1]])
        faster = np.array([[1.0, 0, 60 + 5 * index], [0, 1, 80], [0, 0, 1]])
        front = seen_through(lambda _, m=faster: m, near, index)
        truth.append(np.concatenate([seen_through(lambda _, m=shift: m, far, index)[:110], front[110:]]))
    return truth


def test_two_depths_are_not_smeared_into_each_other() -> None:
    clip = with_object(two_depths())
    found = clip.recovered()
    assert share_known(found, clip) > 0.85
    assert psnr(clip.errors(found)) > 30


def test_a_bridge_is_no_better_than_what_another_plate_saw() -> None:
    clip = with_object(two_depths())
    found = [
        list(recover(clip.read, clip.masks_in, clip.shot, SIZE, BackgroundSettings(bridging=Bridging(px=px, levels=0))))
        for px in (0, 60)
    ]
    bridged = [replace(each, known=seen.known) for each, seen in zip(found[1], found[0], strict=True)]
    assert psnr(clip.errors(bridged)) > psnr(clip.errors(found[0])) - 0.5


def test_a_flat_picture_is_survived() -> None:
    clip = with_object([np.full((SIZE.height, SIZE.width, 3), 90, np.uint8)] * 8, noise=0)
    found = clip.recovered()
    assert len(found) == 8
    assert np.abs(clip.errors(found)).max(initial=0) <= 1


def test_one_frame_alone_knows_nothing() -> None:
    clip = with_object(views(still, count=1))
    found = clip.recovered()
    assert len(found) == 1 and not found[0].known.any()


def test_frames_without_masks_give_nothing_but_serve_as_source() -> None:
    clip = with_object(views(still), lambda index: (150, 90))
    clean = {index: mask for index, mask in clip.masks.items() if index < 12}
    frames = [frame if index in clean else clip.truth[index] for index, frame in enumerate(clip.frames)]
    shown = Clip(frames, clip.truth, clean)
    found = shown.recovered()
    assert [each.index for each in found] == list(range(12))
    assert share_known(found, shown) > 0.98


def test_deep_sources_keep_their_depth() -> None:
    clip = with_object(views(still), noise=0)
    deep = [frame.astype(np.uint16) * 256 + 77 for frame in clip.frames]
    found = Clip(deep, clip.truth, clip.masks).recovered()
    assert {each.rgb.dtype for each in found} == {np.dtype(np.uint16)}
    for each in found:
        want = clip.truth[each.index][each.box.slices][each.known].astype(float) * 256 + 77
        assert np.abs(each.rgb[each.known] - want).max() <= 2


def test_equal_input_gives_equal_bytes() -> None:
    clip = with_object(views(shaking, count=12))
    first, second = clip.recovered(), clip.recovered()
    for one, two in zip(first, second, strict=True):
        assert one.rgb.tobytes() == two.rgb.tobytes()
        assert one.known.tobytes() == two.known.tobytes()


def test_a_narrow_gap_is_bridged_and_a_wide_one_is_not() -> None:
    """Two masks that never move over a still camera: of a wire's width, and of an object's."""
    picture = np.full((120, 160, 3), 60, np.uint8)
    picture[:, 80:] = 180
    wire, thing = Box(10, 30, 140, 9), Box(60, 60, 40, 40)
    seen = picture.copy()
    for box in (wire, thing):
        seen[box.slices] = (255, 0, 0)
    bits = np.zeros(picture.shape[:2], np.bool_)
    bits[wire.slices] = bits[thing.slices] = True
    masks = {index: mask for index in range(12) if (mask := make_mask(index, bits, (0, 0)))}
    found = Clip([seen] * 12, [picture] * 12, masks).recovered()[6]
    whole = np.zeros_like(bits)
    whole[found.box.slices] = found.known
    assert whole[wire.slices].all() and not whole[thing.slices].any()
    laid = seen.astype(float)
    laid[found.box.slices] = found.rgb
    errors = np.abs(laid[wire.slices] - picture[wire.slices])
    assert errors[:, :50].max() <= 2 and errors[:, -50:].max() <= 2  # colours do not bleed along the wire
    assert errors.mean() < 6


def test_a_codecs_traces_round_the_mask_are_taken_away() -> None:
    """Faint traces are removed as far as the halo reaches; an object inside the halo is kept."""
    clip = with_object(views(still), noise=0)
    with_traces = []
    for index, frame in enumerate(clip.frames):
        near = np.zeros(frame.shape[:2], np.uint8)
        cv2.circle(near, moving(index), 29, 1, -1)
        near[clip.masks[index].box.slices] &= ~clip.masks[index].bits
        traced = np.where(near[..., None] > 0, np.clip(frame.astype(int) + 5, 0, 255), frame).astype(np.uint8)
        traced[moving(index)[1] + 27 :, moving(index)[0] - 2 : moving(index)[0] + 3] = (250, 40, 220)
        with_traces.append(traced)
    clip = Clip(with_traces, clip.truth, clip.masks)
    plain = clip.recovered()
    settings = BackgroundSettings(halo_px=4)
    found = list(recover(clip.read, clip.masks_in, clip.shot, SIZE, settings))
    assert all(each.box == clip.masks[each.index].box for each in plain)
    assert share_known(found, clip) > share_known(plain, clip) + 0.15
    for each in found:
        mask = clip.masks[each.index]
        beyond = each.known & ~mask.within(each.box)
        assert not beyond[
            ~np.asarray(cv2.dilate(mask.within(each.box).astype(np.uint8), np.ones((9, 9))), np.bool_)
        ].any()
        x, y = moving(each.index)
        post = Box(x - 2, y + 27, 5, 3).intersect(each.box)
        assert post is None or not beyond[post.shift(-each.box.x, -each.box.y).slices].any()
    assert psnr(clip.errors(found)) > 38


def test_what_an_object_smears_beyond_its_mask_tints_nothing() -> None:
    """Codecs draw a little of a thing round it; that is no light to colour the background by."""
    clip = with_object(views(still), noise=0)
    frames = []
    for index, frame in enumerate(clip.frames):
        glow = cv2.dilate(clip.masks[index].full(SIZE).astype(np.uint8), np.ones((5, 5), np.uint8))
        frames.append(np.where(glow[..., None] & ~clip.masks[index].full(SIZE)[..., None], frame // 8 * 7 + 30, frame))
    smeared = Clip([np.clip(frame, 0, 255).astype(np.uint8) for frame in frames], clip.truth, clip.masks)
    assert np.abs(smeared.errors(smeared.recovered())).mean() < 0.5


def test_memory_and_passes_do_not_grow_with_the_shot() -> None:
    count, picture = 2000, scenery(4, 64, 48)
    frames = _Repeated([picture + np.uint8(level) for level in (0, 1, 2)], count)
    masks = {}
    for index in range(count):
        bits = np.zeros(picture.shape[:2], np.bool_)
        bits[16:30, index % 48 : index % 48 + 14] = True
        mask = make_mask(index, bits)
        assert mask is not None
        masks[index] = mask
    clip = Clip(frames, frames, masks)
    tracemalloc.start()
    try:
        assert sum(1 for _ in recover(clip.read, clip.masks_in, clip.shot, Size(64, 48))) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert clip.frames_read <= 4 * count
    # All frames would be 18 MB more; a pose is about 1 KB, and at most 32 frames are held.
    assert peak < 12e6


class _Repeated(Sequence[Picture]):
    """A few frames again and again."""

    def __init__(self, frames: Sequence[Picture], count: int) -> None:
        self._frames, self._count = frames, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        return self._frames[index % len(self._frames)]
