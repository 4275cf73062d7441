"""Stitching: cross-fades, scaling, and nothing written outside the feathered mask."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.media_files import Media, make
from vace_batch.background.patches import Patch
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import box_mask, make_mask
from vace_batch.planning.stills import Span, Still
from vace_batch.planning.windows import Region, Window
from vace_batch.stitch.paste import stitch_frame
from vace_batch.stitch.regions import RegionPatches
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import write_clip

BOX = Box(16, 8, 32, 32)
REGION = Region(shot=0, start=0, stop=12, crop=BOX.size, size=BOX.size)


def window(start: int, box: Box = BOX) -> Window:
    return Window(region=0, start=start, stop=start + 9, num_frames=9, box=box)


def plain(value: int, count: int, size: Size = REGION.size) -> Iterator[NDArray[np.uint8]]:
    return (np.full((size.height, size.width, 3), value, np.uint8) for _ in range(count))


def test_a_still_picture_stays_as_it_was_painted(tmp_path: Path) -> None:
    frame = next(iter(read_frames(str(make(tmp_path / "clip.mp4", Media(num_frames=3))))))
    still = Still(region=0, window=0, spans=(Span(start=0, stop=9, fades_in=False, fades_out=False),))
    patches = RegionPatches(REGION, [window(0)], lambda _: plain(90, 9), [(still, window(0))])
    stitch_frame(frame, None, box_mask(0, Box(26, 18, 12, 12)), [patches], 2)
    assert (patches.at(1, BOX) == 90).all(), "what was fitted to one frame is not the next one's"


def test_grain_comes_with_the_second_of_two_frames_that_follow_each_other(tmp_path: Path) -> None:
    """A single frame does not separate noise from texture."""
    noise = np.random.default_rng(1).normal(128, 8, (4, 64, 96, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=3)
    write_clip(str(tmp_path / "clip.mp4"), list(noise), rate=Fraction(25), crf=4)
    frames, box = list(read_frames(str(tmp_path / "clip.mp4"))), Box(26, 18, 12, 12)
    patches, inner = RegionPatches(REGION, [window(0)], lambda _: plain(128, 9)), Box(29, 21, 6, 6)
    found = {}
    for index in (0, 1, 3):
        stitch_frame(frames[index], None, box_mask(index, box), [patches], 0)
        pixels = frames[index].rgb(inner).astype(np.float32)
        found[index] = float(np.abs(np.diff(pixels, axis=0)).mean())
    assert found[1] > 5 and max(found[0], found[3]) < 3, found


@pytest.mark.parametrize("feather_px", [0, 3])
def test_nothing_outside_the_feathered_mask_is_written(tmp_path: Path, feather_px: int) -> None:
    path = make(tmp_path / "clip.mp4", Media(num_frames=3))
    mask = box_mask(1, Box(24, 16, 16, 16))
    before, after = list(read_frames(str(path))), list(read_frames(str(path)))
    noise = np.random.default_rng(1).integers(0, 255, (9, 32, 32, 3), np.uint8)
    stitch_frame(after[1], None, mask, [RegionPatches(REGION, [window(0)], lambda _: iter(noise))], feather_px)
    changed = np.abs(before[1].rgb().astype(int) - after[1].rgb()).max(axis=2) > 0
    allowed = mask.box.pad(feather_px + 3)  # chroma samples and their interpolation reach a little further
    outside = changed.copy()
    outside[allowed.slices] = False
    assert not outside.any()
    assert changed[mask.box.slices].mean() > 0.9
    assert (before[0].rgb() == after[0].rgb()).all()


def test_a_fill_of_another_level_meets_its_surroundings(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Media(num_frames=3))
    source, frame = list(read_frames(str(path)))[1], list(read_frames(str(path)))[1]
    dark = np.clip(source.rgb(BOX).astype(int) - 40, 0, 255).astype(np.uint8)
    patches = RegionPatches(REGION, [window(0)], lambda _: iter([dark] * 9))
    stitch_frame(frame, None, box_mask(1, Box(26, 18, 12, 12)), [patches], 2)
    assert np.abs(frame.rgb(BOX).astype(int) - source.rgb(BOX)).mean() < 4


def test_a_token_that_grew_over_recovered_pixels_is_not_shown_there(tmp_path: Path) -> None:
    """A hole of a few pixels is a whole token to the model; the recovered pixels round the hole stay."""
    path = make(tmp_path / "clip.mp4", Media(num_frames=3))
    filled, recovered = list(read_frames(str(path)))[1], list(read_frames(str(path)))[1]
    known = np.ones((24, 24), np.bool_)
    known[8:14, 8:14] = False
    patch = Patch(index=1, box=Box(20, 12, 24, 24), rgb=np.full((24, 24, 3), 200, np.uint8), known=known)
    noise = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8)
    hole = box_mask(1, Box(28, 20, 6, 6))
    stitch_frame(filled, patch, hole, [RegionPatches(REGION, [window(0)], lambda _: iter(noise))], 0)
    stitch_frame(recovered, patch, None, [], 0)
    changed = np.abs(filled.rgb(patch.box).astype(int) - recovered.rgb(patch.box)).max(axis=2) > 2
    assert changed[~known].mean() > 0.9
    changed[4:18, 4:18] = False  # chroma samples and their interpolation reach a little further
    assert not changed.any()


@pytest.mark.parametrize("feather_px", [0, 2])
def test_no_colour_of_the_object_is_left_between_recovered_and_generated(tmp_path: Path, feather_px: int) -> None:
    """Four pixels share a chroma sample: two pastes of half of it each left a quarter of a red object."""
    source = np.full((64, 96, 3), 128, np.uint8)
    source[14:34, 22:42] = (230, 20, 20)
    write_clip(str(tmp_path / "clip.mp4"), [source] * 3, rate=Fraction(25), crf=4)
    frame = list(read_frames(str(tmp_path / "clip.mp4")))[1]
    known = np.zeros((28, 28), np.bool_)
    known[:, :13] = True
    patch = Patch(index=1, box=Box(18, 10, 28, 28), rgb=np.full((28, 28, 3), 128, np.uint8), known=known)
    hole = make_mask(1, ~known, (18, 10))
    assert hole is not None
    stitch_frame(frame, patch, hole, [RegionPatches(REGION, [window(0)], lambda _: plain(128, 9))], feather_px)
    inside = frame.rgb(Box(18, 10, 28, 28)).astype(int)
    assert (inside[..., 0] - inside[..., 2]).max() < 6


def test_recovered_pixels_come_first_and_the_rest_is_generated(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Media(num_frames=3))
    frame = list(read_frames(str(path)))[1]
    known = np.zeros((16, 24), np.bool_)
    known[:, :12] = True
    patch = Patch(index=1, box=Box(20, 16, 24, 16), rgb=np.full((16, 24, 3), 200, np.uint8), known=known)
    hole = box_mask(1, Box(32, 16, 12, 16))
    patches = RegionPatches(REGION, [window(0)], lambda _: plain(90, 9))
    stitch_frame(frame, patch, hole, [patches], 0)
    assert np.abs(frame.rgb(Box(23, 19, 6, 8)).astype(int) - 200).mean() < 3
    assert (frame.rgb(Box(36, 20, 6, 8)) < 230).all()
