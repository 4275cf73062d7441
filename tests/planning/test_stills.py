"""Test still pictures: one generated window serves the frames in which nothing moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vace_batch.geometry import Box, Size
from vace_batch.planning.stills import Still, StillSegments, reuse_stills
from vace_batch.planning.windows import Region, Shot, Window, WindowLimits, plan_clip
from vace_batch.stitch.regions import RegionPatches

FRAME = Size(320, 192)
HOLE = Box(100, 60, 40, 30)
LIMITS = WindowLimits(max_tokens=4000, max_frames=17, overlap_frames=4, min_side=64)


def plan(
    num_frames: int, hole: Box = HOLE
) -> tuple[dict[int, tuple[Box, ...]], tuple[Region, ...], tuple[Window, ...]]:
    parts = {index: (hole,) for index in range(num_frames)}
    return parts, *plan_clip(parts, [Shot(start=0, stop=num_frames)], FRAME, LIMITS)


def stillness(num_frames: int, restless: range = range(0), where: Box = HOLE) -> StillSegments:
    return StillSegments([(0, num_frames)], {t: (where,) if t in restless else () for t in range(num_frames)})


def test_a_picture_that_stands_still_needs_one_window() -> None:
    parts, regions, windows = plan(100)
    assert len(windows) > 5
    [still], _, needed = reuse_stills(stillness(100), parts, regions, windows, LIMITS)
    assert needed == windows[:1]
    assert (still.region, still.window) == (0, 0)
    assert [still.weight(t) for t in (0, 50, 99)] == [1, 1, 1]  # nothing comes before or after that it fades to


def test_where_something_moves_the_windows_stay_and_the_still_picture_fades() -> None:
    parts, regions, windows = plan(100)
    [still], _, needed = reuse_stills(stillness(100, range(40, 50)), parts, regions, windows, LIMITS)
    assert [still.weight(t) for t in (35, 36, 37, 38, 39, 40, 49, 50, 51, 53)] == [
        1,
        1,
        0.75,
        0.5,
        0.25,
        0,
        0,
        0.25,
        0.5,
        1,
    ]
    held = {t for window in needed for t in range(window.start, window.stop)}
    assert set(range(37, 53)) <= held
    assert len(needed) < len(windows)


def test_what_moves_beside_another_hole_does_not_count() -> None:
    parts, regions, windows = plan(100)
    elsewhere = stillness(100, range(40, 50), Box(280, 150, 20, 20))
    [still], _, needed = reuse_stills(elsewhere, parts, regions, windows, LIMITS)
    assert len(needed) == 1
    assert still.weight(45) == 1


def test_frames_that_nobody_judged_are_not_still() -> None:
    parts, regions, windows = plan(40)
    assert reuse_stills(StillSegments(), parts, regions, windows, LIMITS) == ((), regions, windows)
    judged = StillSegments([(0, 40)], {t: () for t in range(4)})  # too few to paint from
    assert reuse_stills(judged, parts, regions, windows, LIMITS) == ((), regions, windows)


def test_each_still_segment_has_its_own_picture() -> None:
    parts, regions, windows = plan(100)
    both = StillSegments([(0, 50), (50, 100)], {t: () for t in range(100)})
    stills, _, needed = reuse_stills(both, parts, regions, windows, LIMITS)
    assert [[span.start for span in still.spans] for still in stills] == [[0], [50]]
    assert all(max(still.weight(t) for still in stills) == 1 for t in (*range(46), *range(54, 100)))
    assert len({still.window for still in stills}) == 2
    assert len(needed) < len(windows)


@pytest.mark.parametrize(("restless", "size"), [(range(0), Size(48, 48)), (range(40, 50), Size(112, 96))])
def test_what_stands_still_is_shown_at_the_scale_that_the_model_paints_well(restless: range, size: Size) -> None:
    """Only still regions are shrunk: where the scene moves, other frames may show the hidden pixels in full detail."""
    parts, regions, windows = plan(100)
    limits = replace(LIMITS, widest_hole_px=16)
    assert regions[0].size == Size(112, 96)
    _, [region], _ = reuse_stills(stillness(100, restless), parts, regions, windows, limits)
    assert region == replace(regions[0], size=size)


@pytest.fixture
def restless_windows() -> tuple[Region, tuple[Window, ...], dict[Window, np.ndarray]]:
    _, [region], windows = plan(40)
    rng = np.random.default_rng(0)
    side = (region.crop.height, region.crop.width, 3)
    return region, windows, {w: rng.integers(90, 110, (w.stop - w.start, *side), np.uint8) for w in windows}


def test_a_still_picture_is_the_mean_of_one_window(
    restless_windows: tuple[Region, tuple[Window, ...], dict[Window, np.ndarray]],
) -> None:
    region, windows, frames = restless_windows
    parts = {index: (HOLE,) for index in range(40)}
    stills, _, [needed] = reuse_stills(stillness(40), parts, [region], windows, LIMITS)
    patches = RegionPatches(region, [needed], lambda window: iter(frames[window]), [(stills[0], needed)])
    place = HOLE.shift(-needed.box.x, -needed.box.y).slices
    expected = frames[needed].mean(axis=0)[place]
    for index in (0, 20, 39):
        assert patches.reach(index) == needed.box
        np.testing.assert_allclose(patches.at(index, HOLE), expected, atol=1e-3)


def test_a_still_picture_fades_into_what_the_windows_show(
    restless_windows: tuple[Region, tuple[Window, ...], dict[Window, np.ndarray]],
) -> None:
    region, windows, frames = restless_windows
    parts = {index: (HOLE,) for index in range(40)}
    [still], _, needed = reuse_stills(stillness(40, range(30, 40)), parts, [region], windows, LIMITS)
    kept = needed[still.window]
    moving = RegionPatches(region, needed, lambda window: iter(frames[window]))
    both = RegionPatches(region, needed, lambda window: iter(frames[window]), [(still, kept)])
    picture = both.at(20, HOLE)
    np.testing.assert_allclose(both.at(28, HOLE), 0.5 * picture + 0.5 * moving.at(28, HOLE), atol=1e-3)
    np.testing.assert_allclose(both.at(35, HOLE), moving.at(35, HOLE), atol=1e-3)


def test_a_still_is_kept_with_the_plan() -> None:
    from pydantic import TypeAdapter

    parts, regions, windows = plan(100)
    stills, _, _ = reuse_stills(stillness(100, range(40, 50)), parts, regions, windows, LIMITS)
    adapter = TypeAdapter(tuple[Still, ...])
    assert adapter.validate_python(adapter.dump_python(stills, mode="json")) == stills
