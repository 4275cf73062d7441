"""Stitching: cross-fades, scaling, and nothing written outside the feathered mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.media_files import Media, make
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import box_mask
from vace_batch.plan import Region, Window
from vace_batch.stitch import RegionPatches, resize, stitch_frame
from vace_batch.video.read import read_frames

REGION = Region(shot=0, start=0, stop=12, box=Box(16, 8, 32, 32), size=Size(32, 32))


def plain(value: int, count: int, size: Size = REGION.size) -> Iterator[NDArray[np.uint8]]:
    return (np.full((size.height, size.width, 3), value, np.uint8) for _ in range(count))


def test_overlapping_windows_cross_fade() -> None:
    windows = [Window(region=0, start=0, stop=9, num_frames=9), Window(region=0, start=4, stop=13, num_frames=9)]
    patches = RegionPatches(REGION, windows, lambda window: plain(0 if window.start == 0 else 120, 9))
    levels = [int(patches.at(index)[0, 0, 0]) for index in range(13)]
    assert levels[:4] == [0] * 4 and levels[9:] == [120] * 4
    assert levels[4:9] == [20, 40, 60, 80, 100]


def test_frames_without_a_mask_may_be_left_out_but_not_asked_for_again() -> None:
    frames = [np.full((32, 32, 3), value, np.uint8) for value in range(9)]
    window = Window(region=0, start=2, stop=11, num_frames=9)
    patches = RegionPatches(REGION, [window], lambda _: iter(frames))
    assert patches.at(3)[0, 0, 0] == 1 and patches.at(7)[0, 0, 0] == 5
    with pytest.raises(ValueError, match="read forward"):
        patches.at(4)
    with pytest.raises(ValueError, match="no window"):
        patches.at(11)


def test_a_window_at_another_scale_comes_back_at_the_box_size() -> None:
    region = Region(shot=0, start=0, stop=9, box=Box(0, 0, 64, 48), size=Size(32, 32))
    window = Window(region=0, start=0, stop=9, num_frames=9)
    patch = RegionPatches(region, [window], lambda _: plain(77, 9, region.size)).at(0)
    assert patch.shape == (48, 64, 3) and (patch == 77).all()


def test_resize_leaves_equal_sizes_alone() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert resize(image, Size(4, 4)) is image


@pytest.mark.parametrize("feather_px", [0, 3])
def test_nothing_outside_the_feathered_mask_is_written(tmp_path: Path, feather_px: int) -> None:
    path = make(tmp_path / "clip.mp4", Media(num_frames=3))
    mask = box_mask(1, Box(24, 16, 16, 16))
    before, after = list(read_frames(str(path))), list(read_frames(str(path)))
    window = Window(region=0, start=0, stop=9, num_frames=9)
    region = Region(shot=0, start=0, stop=3, box=REGION.box, size=REGION.size)
    patches = {0: RegionPatches(region, [window], lambda _: plain(255, 9))}
    stitch_frame(after[1], mask, {0: region}, patches, feather_px)
    changed = np.abs(before[1].rgb().astype(int) - after[1].rgb()).max(axis=2) > 0
    allowed = mask.box.pad(feather_px + 3)  # chroma samples and their interpolation reach a little further
    outside = changed.copy()
    outside[allowed.slices] = False
    assert not outside.any()
    assert (after[1].rgb()[mask.box.slices][4:-4, 4:-4] > 245).all()
    assert (before[0].rgb() == after[0].rgb()).all()
