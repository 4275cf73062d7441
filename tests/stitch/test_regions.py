"""A region's generated frames: cross-fades, moved windows, scales, and which region shows which part of a mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import make_mask
from vace_batch.planning.windows import Region, Window
from vace_batch.stitch.regions import RegionPatches, share_out

BOX = Box(16, 8, 32, 32)
REGION = Region(shot=0, start=0, stop=12, crop=BOX.size, size=BOX.size)


def window(start: int, box: Box = BOX) -> Window:
    return Window(region=0, start=start, stop=start + 9, num_frames=9, box=box)


def plain(value: int, count: int, size: Size = REGION.size) -> Iterator[NDArray[np.uint8]]:
    return (np.full((size.height, size.width, 3), value, np.uint8) for _ in range(count))


def test_overlapping_windows_cross_fade() -> None:
    windows = [window(0), window(4)]
    patches = RegionPatches(REGION, windows, lambda window: plain(0 if window.start == 0 else 120, 9))
    levels = [round(float(patches.at(index, BOX)[0, 0, 0])) for index in range(13)]
    assert levels[:4] == [0] * 4 and levels[9:] == [120] * 4
    assert levels[4:9] == [20, 40, 60, 80, 100]


def test_windows_at_other_places_meet_in_the_frame() -> None:
    """The crop follows its object: two windows show the same place of the frame at the same pixels."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    windows = [window(0, Box(0, 8, 32, 32)), window(4, Box(12, 10, 32, 32))]
    patches = RegionPatches(REGION, windows, lambda window: iter([picture[window.box.slices]] * 9))
    place = Box(14, 12, 16, 20)
    for index in range(13):
        assert (patches.at(index, place) == picture[place.slices]).all()
    assert patches.reach(5) == Box(12, 10, 20, 30) and patches.reach(2) == Box(0, 8, 32, 32)
    with pytest.raises(ValueError, match="no window"):
        RegionPatches(REGION, windows, lambda _: plain(0, 9)).at(5, Box(2, 12, 16, 20))


def test_frames_may_be_left_out_and_asked_for_again() -> None:
    frames = [np.full((32, 32, 3), value, np.uint8) for value in range(9)]
    patches = RegionPatches(REGION, [window(2)], lambda _: iter(frames))
    assert patches.at(3, BOX)[0, 0, 0] == 1 and patches.at(7, BOX)[0, 0, 0] == 5
    assert patches.at(4, BOX)[0, 0, 0] == 2 and patches.at(7, BOX)[0, 0, 0] == 5
    with pytest.raises(ValueError, match="no window"):
        patches.at(11, BOX)


def test_a_window_at_another_scale_comes_back_at_the_box_size() -> None:
    region = Region(shot=0, start=0, stop=9, crop=Size(64, 48), size=Size(32, 32))
    patches = RegionPatches(region, [window(0, Box(0, 0, 64, 48))], lambda _: plain(77, 9, region.size))
    patch = patches.at(0, Box(0, 0, 64, 48))
    assert patch.shape == (48, 64, 3) and (patch == 77).all()


def test_a_part_goes_to_a_region_that_shows_all_of_it() -> None:
    left = RegionPatches(REGION, [window(0, Box(0, 0, 32, 32))], lambda _: plain(0, 9))
    right = RegionPatches(REGION, [window(0, Box(24, 0, 32, 32))], lambda _: plain(0, 9))
    bits = np.zeros((40, 64), np.bool_)
    bits[4:12, 4:12] = bits[4:12, 28:40] = True
    mask = make_mask(0, bits)
    assert mask is not None
    shares = share_out(mask, [left, right])
    assert {number: share.box for number, share in shares.items()} == {0: Box(4, 4, 8, 8), 1: Box(28, 4, 12, 8)}


def test_a_part_that_no_window_shows_is_an_error() -> None:
    mask = make_mask(0, np.ones((64, 64), np.bool_))
    assert mask is not None
    with pytest.raises(ValueError, match="no window holds this part"):
        share_out(mask, [RegionPatches(REGION, [window(0)], lambda _: plain(0, 9))])


def test_a_change_is_known_where_the_frame_before_was_seen() -> None:
    patches = RegionPatches(REGION, [window(0)], lambda _: plain(0, 9))
    first, second = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 4, np.uint8)
    assert not patches.change(0, Box(16, 8, 8, 8), first).known.any()
    change = patches.change(1, Box(20, 8, 8, 8), second)
    assert change.known[:, :4].all() and not change.known[:, 4:].any()
    assert (change.levels[:, :4] == -6).all()
    assert not patches.change(3, Box(20, 8, 8, 8), first).known.any(), "frame 2 was left out"
