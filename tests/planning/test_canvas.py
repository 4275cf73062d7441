"""Test the canvas: the source's place, the new frames, and the known frames in an extension's window."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Expand, Extend, Job
from vace_batch.masks.store import box_mask
from vace_batch.planning.canvas import canvas_masks, canvas_of, canvas_shots, known_context, new_frames
from vace_batch.planning.windows import Shot, WindowLimits
from vace_batch.video.canvas_frames import Canvas

LIMITS = WindowLimits(max_tokens=10_000, max_frames=33, overlap_frames=8, min_side=64)
SHARES = st.integers(0, 100).map(lambda percent: percent / 100)


def job(task: str, **fields: object) -> Job:
    return Job(job_id="j", video_uri="v.mp4", task=task, **fields)  # type: ignore[arg-type]


def extension(**fields: object) -> Job:
    return job("extension", extend=Extend(**fields))  # type: ignore[arg-type]


@given(shares=st.tuples(SHARES, SHARES, SHARES, SHARES), width=st.integers(2, 2000), height=st.integers(2, 2000))
def test_a_canvas_grows_by_at_least_what_is_asked_and_holds_the_source(
    shares: tuple[float, ...], width: int, height: int
) -> None:
    left, right, up, down = shares
    canvas = canvas_of(
        job("outpainting", expand=Expand(left=left, right=right, up=up, down=down)), Size(width, height), None
    )
    assert canvas.source.size == Size(width, height) and canvas.source.clip(canvas.size) == canvas.source
    assert canvas.source.x >= left * width - 1e-6 and canvas.size.width - canvas.source.right >= right * width - 1e-6
    assert canvas.source.x % 16 == canvas.source.y % 16 == 0
    assert canvas.size.width - width < (left + right) * width + 32
    assert canvas.grows == any(shares)


@given(shares=st.tuples(*[st.floats(0, 0.45)] * 4), width=st.integers(16, 500), height=st.integers(16, 500))
def test_inner_keeps_the_size(shares: tuple[float, ...], width: int, height: int) -> None:
    left, right, up, down = shares
    expand = Expand(left=left, right=right, up=up, down=down, inner=True)
    canvas = canvas_of(job("outpainting", expand=expand), Size(width, height), None)
    assert canvas.size == Size(width, height) and not canvas.grows
    assert canvas.kept.clip(canvas.size) == canvas.kept
    assert abs(canvas.kept.width - (1 - left - right) * width) <= 1 + 1e-9


def test_outpainting_without_more_words_grows_a_quarter_on_every_side() -> None:
    canvas = canvas_of(job("outpainting"), Size(640, 320), None)
    assert (canvas.size, canvas.source) == (Size(960, 480), Box(160, 80, 640, 320))
    assert canvas_of(job("composition", compose="expand"), Size(640, 320), None) == canvas
    assert canvas_of(job("removal"), Size(640, 320), None) == Canvas(
        size=Size(640, 320), source=Box(0, 0, 640, 320), kept=Box(0, 0, 640, 320)
    )


def test_seconds_are_frames_of_the_source_before_or_after_it() -> None:
    after = canvas_of(extension(mode="first", seconds=0.5), Size(64, 64), Fraction(24))
    before = canvas_of(extension(mode="last", seconds=0.5), Size(64, 64), Fraction(24))
    assert (after.before, after.after, before.before, before.after) == (0, 12, 12, 0)
    assert canvas_shots([10], 30, after) == (Shot(start=0, stop=10), Shot(start=10, stop=42))
    assert canvas_shots([10], 30, before) == (Shot(start=0, stop=22), Shot(start=22, stop=42))
    assert new_frames(extension(mode="first", seconds=0.5), after, 30, (0, 30)) == range(30, 42)
    assert new_frames(extension(mode="last", seconds=0.5), before, 30, (0, 30)) == range(12)


def test_cuts_outside_the_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1..9"):
        canvas_shots([10], 10, IN_PLACE)


IN_PLACE = Canvas(size=Size(64, 64), source=Box(0, 0, 64, 64), kept=Box(0, 0, 64, 64))


@given(
    mode=st.sampled_from(["first", "last", "firstlast"]),
    unit=st.sampled_from(["frame", "clip"]),
    frames=st.integers(2, 80),
    ends=st.tuples(st.integers(0, 79), st.integers(1, 80)),
)
def test_the_window_of_an_extension_shows_known_frames_on_the_sides_asked_for(
    mode: str, unit: str, frames: int, ends: tuple[int, int]
) -> None:
    start, stop = min(ends), min(max(ends), frames)
    assume(start < stop)
    row = extension(mode=mode, unit=unit)
    try:
        new = new_frames(row, IN_PLACE, frames, (start, stop))
        before, after = known_context(row, new, [Shot(start=0, stop=frames)], LIMITS)
    except ClipError as error:
        assert error.code in ("empty_range", "extension_too_long", "no_context")
        return
    assert 0 <= before.start and after.stop <= frames and before.stop == new.start and after.start == new.stop
    assert bool(before) == (mode != "last") and bool(after) == (mode != "first")
    length = len(before) + len(new) + len(after)
    assert length <= LIMITS.max_frames
    if unit == "frame":
        assert len(before) + len(after) <= 5
    elif mode == "first" and new.start >= LIMITS.max_frames:
        assert length == LIMITS.max_frames


def test_masks_of_the_source_move_with_it_and_the_canvas_round_it_is_masked() -> None:
    canvas = canvas_of(job("outpainting", expand=Expand(left=0.5)), Size(32, 32), None)
    found = [box_mask(1, Box(4, 4, 8, 8))]
    masks = {
        mask.index: mask.full(canvas.size)
        for mask in canvas_masks(job("outpainting"), canvas, found, range(3), range(0))
    }
    assert set(masks) == {0, 1, 2}
    outside = np.zeros((32, 48), np.bool_)
    outside[:, :16] = True
    np.testing.assert_array_equal(masks[0], outside)
    outside[4:12, 20:28] = True
    np.testing.assert_array_equal(masks[1], outside)


def test_new_frames_are_masked_whole_and_known_ones_not_at_all() -> None:
    row = extension(mode="last", seconds=0.08)
    canvas = canvas_of(row, Size(32, 32), Fraction(25))
    masks = list(canvas_masks(row, canvas, (), range(2, 12), range(2)))
    assert [mask.index for mask in masks] == [0, 1] and all(mask.bits.all() for mask in masks)
    both = job("composition", compose="extension+repaint", extend=Extend())
    found = [box_mask(index, Box(0, 0, 4, 4)) for index in range(6)]
    masks = list(canvas_masks(both, IN_PLACE, found, range(6), range(1, 6)))
    assert [mask.index for mask in masks] == [1, 2, 3, 4, 5] and all(mask.box == Box(0, 0, 4, 4) for mask in masks)


def test_the_only_known_frame_cannot_be_made_anew() -> None:
    with pytest.raises(ClipError, match="no frame is left"):
        new_frames(extension(mode="firstlast"), IN_PLACE, 2, (0, 2))
    with pytest.raises(ClipError, match="holds no known frame"):
        known_context(extension(mode="first"), range(5, 9), [Shot(start=5, stop=9)], LIMITS)
