"""Test properties of windows and regions that hold for any clip."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vace_batch.geometry import Box, Size, legal_num_frames, token_count
from vace_batch.planning.canvas import canvas_shots
from vace_batch.planning.windows import Region, Shot, Window, WindowLimits, fade_weights, masked_runs, plan_clip
from vace_batch.video.canvas_frames import Canvas

Planned = tuple[tuple[Region, ...], tuple[Window, ...]]

LIMITS = WindowLimits(max_tokens=32_760, max_frames=81, overlap_frames=16, min_side=256)
WHOLE = Box(0, 0, 64, 48)
IN_PLACE = Canvas(size=WHOLE.size, source=WHOLE, kept=WHOLE)


def shots_of(num_frames: int, cuts: list[int]) -> tuple[Shot, ...]:
    return canvas_shots(cuts, num_frames, IN_PLACE)


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, list[int], Size, dict[int, tuple[Box, ...]], WindowLimits]:
    num_frames = draw(st.integers(1, 400))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, num_frames - 1)), max_size=4)) if num_frames > 1 else set())
    frame = Size(draw(st.integers(2, 4096)), draw(st.integers(2, 2160)))

    def box() -> Box:
        x, y = draw(st.integers(0, frame.width - 1)), draw(st.integers(0, frame.height - 1))
        return Box(x, y, draw(st.integers(1, frame.width - x)), draw(st.integers(1, frame.height - y)))

    indices = draw(st.sets(st.integers(0, num_frames - 1), max_size=40))
    parts = {index: tuple(box() for _ in range(draw(st.integers(1, 3)))) for index in indices}
    longest = draw(st.integers(1, 25)) * 4 + 1
    limits = WindowLimits(
        max_tokens=draw(st.integers(500, 80_000)),
        max_frames=longest,
        overlap_frames=draw(st.integers(0, longest - 1)),
        min_side=draw(st.integers(16, 512)),
    )
    return num_frames, cuts, frame, parts, limits


@settings(max_examples=300)
@given(clips())
def test_every_masked_frame_is_in_a_window_inside_shot_and_frame(
    clip: tuple[int, list[int], Size, dict[int, tuple[Box, ...]], WindowLimits],
) -> None:
    num_frames, cuts, frame, parts, limits = clip
    shots = shots_of(num_frames, cuts)
    regions, windows = plan_clip(parts, shots, frame, limits)
    assert {window.region for window in windows} == set(range(len(regions)))
    for index, boxes in parts.items():
        for box in boxes:
            assert any(
                all(box.intersect(w.box) == box for w in windows if w.region == n and w.start <= index < w.stop)
                for n, region in enumerate(regions)
                if region.start <= index < region.stop
            )
    for number, region in enumerate(regions):
        assert region.size.width % 16 == 0 and region.size.height % 16 == 0
        mine = [window for window in windows if window.region == number]
        assert all(any(w.start <= i < w.stop for w in mine) for i in range(region.start, region.stop))
        for window in mine:
            shot = shots[region.shot]
            assert window.box.clip(frame) == window.box and window.box.size == region.crop
            assert shot.start <= window.start < window.stop <= shot.stop
            held = (box for i in parts if window.start <= i < window.stop for box in parts[i])
            assert any(window.box.intersect(box) == box for box in held), "a window without a mask"
            assert window.num_frames == legal_num_frames(window.num_frames) <= limits.max_frames
            assert window.stop - window.start == min(window.num_frames, shot.stop - shot.start)
            smallest = region.size.width == 16 or region.size.height == 16
            assert smallest or token_count(window.num_frames, region.size) <= limits.max_tokens


@settings(max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 25), st.data())
def test_long_runs_overlap_at_least_as_asked(length: int, n: int, data: st.DataObject) -> None:
    longest = 4 * n + 1
    overlap = data.draw(st.integers(0, longest - 1))
    limits = WindowLimits(max_tokens=10**6, max_frames=longest, overlap_frames=overlap, min_side=16)
    shots = shots_of(length, [])
    _, windows = plan_clip({i: (Box(0, 0, 16, 16),) for i in range(length)}, shots, Size(64, 64), limits)
    for left, right in zip(windows, windows[1:], strict=False):
        assert left.stop - right.start >= overlap
        assert left.start < right.start


def plan_one(parts: dict[int, tuple[Box, ...]], frame: Size, num_frames: int, limits: WindowLimits = LIMITS) -> Planned:
    return plan_clip(parts, shots_of(num_frames, []), frame, limits)


def test_a_crop_is_native_where_the_budget_allows() -> None:
    [region], [window] = plan_one({i: (Box(300, 200, 100, 60),) for i in range(81)}, Size(1920, 1080), 81)
    assert region.crop == region.size == Size(256, 256)
    assert window.box.intersect(Box(300, 200, 100, 60)) == Box(300, 200, 100, 60)


def test_a_4k_object_is_cut_out_at_4k() -> None:
    [region], [window] = plan_one({i: (Box(3000, 1500, 300, 200),) for i in range(81)}, Size(3840, 2160), 81)
    assert region.crop == region.size == Size(512, 384) and window.box == Box(2894, 1408, 512, 384)


def test_a_crop_over_the_budget_is_scaled_not_cut() -> None:
    [region], [window] = plan_one({i: (Box(0, 0, 3840, 2160),) for i in range(81)}, Size(3840, 2160), 81)
    assert window.box == Box(0, 0, 3840, 2160)
    size = region.size
    assert token_count(81, size) <= LIMITS.max_tokens < token_count(81, Size(size.width + 32, size.height + 32))
    assert region.token_px == 75


def test_an_odd_frame_is_used_whole_when_the_object_fills_it() -> None:
    limits = WindowLimits(max_tokens=10**6, max_frames=81, overlap_frames=16, min_side=256)
    [region], [window] = plan_one({i: (Box(0, 0, 853, 481),) for i in range(5)}, Size(853, 481), 5, limits)
    assert (window.box, region.size) == (Box(0, 0, 853, 481), Size(848, 480))


def test_objects_far_apart_have_regions_of_their_own_and_near_ones_share() -> None:
    left, near, far = Box(40, 40, 64, 64), Box(120, 60, 64, 64), Box(1700, 900, 64, 64)
    regions, _ = plan_one({i: (left, far) for i in range(40)}, Size(1920, 1080), 40)
    assert [region.crop for region in regions] == [Size(256, 256)] * 2
    regions, [window] = plan_one({i: (left, near) for i in range(40)}, Size(1920, 1080), 40)
    assert window.box.intersect(left.union(near)) == left.union(near)


def test_a_crop_follows_an_object_across_the_frame_only_where_that_is_cheaper() -> None:
    crossing = {i: (Box(6 * i, 400, 80, 80),) for i in range(300)}
    [region], windows = plan_one(crossing, Size(1920, 1080), 300)
    assert region.crop.width < 960 and region.crop.height == 256
    assert len({window.box for window in windows}) == len(windows) == 5
    assert {window.box.y for window in windows} == {windows[0].box.y}
    swaying = {i: (Box(400 + 20 * (i % 3), 400, 80, 80),) for i in range(300)}
    [_], windows = plan_one(swaying, Size(1920, 1080), 300)
    assert len({window.box for window in windows}) == 1


def test_few_sizes_serve_all_objects() -> None:
    rng = random.Random(1)
    sizes = set()
    for _ in range(200):
        box = Box(600, 300, rng.randrange(20, 500), rng.randrange(20, 500))
        [region], _ = plan_one({0: (box,)}, Size(1920, 1080), 1)
        sizes |= {region.crop.width, region.crop.height}
    assert len(sizes) <= 7


def test_runs_join_over_short_gaps_only() -> None:
    shot = shots_of(100, [])[0]
    assert masked_runs([1, 2, 6, 20], shot, max_gap=3) == ((1, 7), (20, 21))


def test_a_short_shot_holds_its_last_frame() -> None:
    parts = {i: (Box(0, 0, 64, 64),) for i in range(50)}
    _, windows = plan_clip(parts, shots_of(50, [25]), Size(640, 360), LIMITS)
    assert [(w.start, w.stop, w.num_frames) for w in windows] == [(0, 25, 25), (25, 50, 25)]
    _, windows = plan_one({0: (Box(0, 0, 9, 9),), 2: (Box(0, 0, 9, 9),)}, Size(64, 64), 3)
    assert [(w.start, w.stop, w.num_frames) for w in windows] == [(0, 3, 5)]


def test_fade_weights_favour_the_middle_of_a_window() -> None:
    box = Box(0, 0, 64, 64)
    left = Window(region=0, start=0, stop=81, num_frames=81, box=box)
    right = Window(region=0, start=65, stop=146, num_frames=81, box=box)
    assert fade_weights(10, [left]) == [1.0]
    first, last = fade_weights(65, [left, right]), fade_weights(80, [left, right])
    assert first == pytest.approx([16 / 17, 1 / 17]) and last == pytest.approx([1 / 17, 16 / 17])
    with pytest.raises(ValueError, match="lies outside"):
        fade_weights(81, [left])
