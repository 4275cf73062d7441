"""Windows and regions: what must hold for any clip."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vace_batch.geometry import Box, Size, legal_num_frames, token_count
from vace_batch.plan import Limits, Window, crop, fade_weights, masked_runs, plan_regions, plan_windows, shots_of

LIMITS = Limits(max_tokens=32_760, max_frames=81, overlap_frames=16, min_side=256)


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, list[int], Size, dict[int, Box], Limits]:
    num_frames = draw(st.integers(1, 400))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, num_frames - 1)), max_size=4)) if num_frames > 1 else set())
    frame = Size(draw(st.integers(2, 4096)), draw(st.integers(2, 2160)))
    boxes = {}
    for index in draw(st.sets(st.integers(0, num_frames - 1), max_size=60)):
        x, y = draw(st.integers(0, frame.width - 1)), draw(st.integers(0, frame.height - 1))
        boxes[index] = Box(x, y, draw(st.integers(1, frame.width - x)), draw(st.integers(1, frame.height - y)))
    longest = draw(st.integers(1, 25)) * 4 + 1
    limits = Limits(
        max_tokens=draw(st.integers(500, 80_000)),
        max_frames=longest,
        overlap_frames=draw(st.integers(0, longest - 1)),
        min_side=draw(st.integers(16, 512)),
    )
    return num_frames, cuts, frame, boxes, limits


@settings(max_examples=300, deadline=None)
@given(clips())
def test_every_masked_frame_is_in_a_window_inside_shot_and_frame(
    clip: tuple[int, list[int], Size, dict[int, Box], Limits],
) -> None:
    num_frames, cuts, frame, boxes, limits = clip
    shots = shots_of(num_frames, cuts)
    regions = plan_regions(boxes, shots, frame, limits)
    windows = plan_windows(regions, shots, limits)
    for index, box in boxes.items():
        holders = [region for region in regions if region.start <= index < region.stop]
        assert len(holders) == 1
        assert holders[0].box.intersect(box) == box
    for region in regions:
        assert region.box.clip(frame) == region.box
        assert region.size.width % 16 == 0 and region.size.height % 16 == 0
        mine = [window for window in windows if regions[window.region] == region]
        assert all(any(w.start <= i < w.stop for w in mine) for i in range(region.start, region.stop))
        for window in mine:
            shot = shots[region.shot]
            assert shot.start <= window.start < window.stop <= shot.stop
            assert window.num_frames == legal_num_frames(window.num_frames) <= limits.max_frames
            assert window.stop - window.start == min(window.num_frames, shot.stop - shot.start)
            smallest = region.size.width == 16 or region.size.height == 16
            assert smallest or token_count(window.num_frames, region.size) <= limits.max_tokens
    assert {window.region for window in windows} == set(range(len(regions)))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 25), st.data())
def test_long_runs_overlap_at_least_as_asked(length: int, n: int, data: st.DataObject) -> None:
    longest = 4 * n + 1
    overlap = data.draw(st.integers(0, longest - 1))
    limits = Limits(max_tokens=10**6, max_frames=longest, overlap_frames=overlap, min_side=16)
    shots = shots_of(length, [])
    regions = plan_regions({i: Box(0, 0, 16, 16) for i in range(length)}, shots, Size(64, 64), limits)
    windows = plan_windows(regions, shots, limits)
    for left, right in zip(windows, windows[1:], strict=False):
        assert left.stop - right.start >= overlap
        assert left.start < right.start


def test_a_crop_is_native_where_the_budget_allows() -> None:
    box, size = crop(Box(300, 200, 100, 60), Size(1920, 1080), 81, LIMITS)
    assert box.size == size == Size(256, 256)
    assert box.intersect(Box(300, 200, 100, 60)) == Box(300, 200, 100, 60)


def test_a_crop_over_the_budget_is_scaled_not_cut() -> None:
    box, size = crop(Box(0, 0, 3840, 2160), Size(3840, 2160), 81, LIMITS)
    assert box == Box(0, 0, 3840, 2160)
    assert token_count(81, size) <= LIMITS.max_tokens < token_count(81, Size(size.width + 32, size.height + 32))


def test_an_odd_frame_is_used_whole_when_the_object_fills_it() -> None:
    box, size = crop(
        Box(0, 0, 853, 481),
        Size(853, 481),
        81,
        Limits(max_tokens=10**6, max_frames=81, overlap_frames=16, min_side=256),
    )
    assert (box, size) == (Box(0, 0, 853, 481), Size(848, 480))


def test_runs_join_over_short_gaps_only() -> None:
    shot = shots_of(100, [])[0]
    assert masked_runs([1, 2, 6, 20], shot, max_gap=3) == ((1, 7), (20, 21))


def test_a_short_shot_holds_its_last_frame() -> None:
    shots = shots_of(50, [25])
    regions = plan_regions({i: Box(0, 0, 64, 64) for i in range(50)}, shots, Size(640, 360), LIMITS)
    windows = plan_windows(regions, shots, LIMITS)
    assert [(w.start, w.stop, w.num_frames) for w in windows] == [(0, 25, 25), (25, 50, 25)]
    three = plan_windows(
        plan_regions({0: Box(0, 0, 9, 9)}, shots_of(3, []), Size(64, 64), LIMITS), shots_of(3, []), LIMITS
    )
    assert [(w.start, w.stop, w.num_frames) for w in three] == [(0, 1, 1)]


def test_fade_weights_favour_the_middle_of_a_window() -> None:
    left = Window(region=0, start=0, stop=81, num_frames=81)
    right = Window(region=0, start=65, stop=146, num_frames=81)
    assert fade_weights(10, [left]) == [1.0]
    first, last = fade_weights(65, [left, right]), fade_weights(80, [left, right])
    assert first == pytest.approx([16 / 17, 1 / 17]) and last == pytest.approx([1 / 17, 16 / 17])
    with pytest.raises(ValueError, match="lies outside"):
        fade_weights(81, [left])


def test_cuts_outside_the_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1..9"):
        shots_of(10, [10])
