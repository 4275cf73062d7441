"""Lay out the canvas of a job: how much larger or longer the output is than its source, and which frames are new.

Most tasks keep the source's size and length. Outpainting grows the picture, extension the timeline. From here on frames
count from the canvas's first frame and boxes are in the canvas's pixels; only code that reads the source asks for the
source's place. New pixels and frames are masks like any other mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box, Size, align_up, legal_num_frames
from vace_batch.manifest.job import Expand, Extend, Job
from vace_batch.masks.store import FrameMask, box_mask, make_mask, merge_masks
from vace_batch.planning.windows import Shot, WindowLimits
from vace_batch.video.canvas_frames import Canvas

DEFAULT_EXPAND = Expand(left=0.25, right=0.25, up=0.25, down=0.25)
_DEFAULT_RATE = Fraction(25)


def canvas_of(job: Job, size: Size, rate: Fraction | None) -> Canvas:
    """Lay out the canvas of a job on a source of display `size`, shown at `rate` frames a second.

    A canvas grows by whole tokens, so that the source keeps its chroma samples and its place in the model's grid.
    """
    expand = job.expand
    if expand is None and (job.task == "outpainting" or job.compose == "expand"):
        expand = DEFAULT_EXPAND
    canvas = _expanded(size, expand)
    if job.extend is None or job.extend.seconds is None:
        return canvas
    added_frames = max(1, round(job.extend.seconds * (rate or _DEFAULT_RATE)))
    if job.extend.mode == "last":
        return replace(canvas, before=added_frames)
    return replace(canvas, after=added_frames)


def _expanded(size: Size, expand: Expand | None) -> Canvas:
    picture = Box(0, 0, size.width, size.height)
    if expand is None:
        return Canvas(size=size, source=picture, kept=picture)
    if expand.inner:
        return Canvas(size=size, source=picture, kept=_inner_box(size, expand))
    left = _added_px(expand.left, size.width)
    right = _added_px(expand.right, size.width)
    up = _added_px(expand.up, size.height)
    down = _added_px(expand.down, size.height)
    source = picture.shift(left, up)
    return Canvas(size=Size(size.width + left + right, size.height + up + down), source=source, kept=source)


def _inner_box(size: Size, expand: Expand) -> Box:
    left = round(expand.left * size.width)
    top = round(expand.up * size.height)
    right = size.width - round(expand.right * size.width)
    bottom = size.height - round(expand.down * size.height)
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def canvas_shots(cuts: Sequence[int], num_frames: int, canvas: Canvas) -> tuple[Shot, ...]:
    """Move the source's shots to the canvas; added frames belong to the first or the last shot.

    Raises:
        ValueError: a cut lies outside 1..num_frames-1.
    """
    bad = [cut for cut in cuts if not 0 < cut < num_frames]
    if bad:
        raise ValueError(f"cuts: expected 1..{num_frames - 1}, got {bad}")
    edges = [0, *(cut + canvas.before for cut in sorted(cuts)), num_frames + canvas.before + canvas.after]
    return tuple(Shot(start=a, stop=b) for a, b in zip(edges, edges[1:], strict=False))


def new_frames(job: Job, canvas: Canvas, num_frames: int, frame_range: tuple[int, int]) -> range:
    """Return the frames that an extension generates, on the canvas; empty for other jobs.

    With `seconds` they are the added frames. Else they are the source's `frame_range` (start, stop) without the first
    or the last frame of the video, which the extension starts or ends with.

    Raises:
        ClipError: `empty_range`.
    """
    if job.extend is None:
        return range(0)
    if job.extend.seconds is not None:
        start = 0 if canvas.before else num_frames
        return range(start, start + canvas.before + canvas.after)
    start, stop = frame_range
    if job.extend.mode in ("first", "firstlast"):
        start = max(start, 1)
    if job.extend.mode in ("last", "firstlast"):
        stop = min(stop, num_frames - 1)
    if start >= stop:
        raise ClipError("empty_range", "extend: every frame of the window is known; no frame is left to generate")
    return range(start, stop)


def known_context(job: Job, new: range, shots: Sequence[Shot], limits: WindowLimits) -> tuple[range, range]:
    """Choose the known frames before and after the new frames that the window of an extension shows.

    Raises:
        ClipError: `extension_over_cut`, `extension_too_long`, `no_context`.
    """
    assert job.extend is not None
    shot = _shot_around(new, shots)
    shows_before = job.extend.mode in ("first", "firstlast")
    shows_after = job.extend.mode in ("last", "firstlast")
    room_before = new.start - shot.start if shows_before else 0
    room_after = shot.stop - new.stop if shows_after else 0
    if (shows_before and not room_before) or (shows_after and not room_after):
        raise ClipError("no_context", "extend: the shot holds no known frame beside the new ones")
    sides = int(shows_before) + int(shows_after)
    spare = _spare_frames(job.extend, len(new), sides, limits)
    share = spare // sides
    before = min(room_before, share if room_after >= share else spare - room_after)
    after = min(room_after, spare - before)
    # Frames beyond the window's length of 4n+1 are left out: a longer window would repeat frames.
    excess = (before + after + len(new) - 1) % 4
    fewer_before = min(excess, max(before - int(shows_before), 0))
    before -= fewer_before
    after = max(after - (excess - fewer_before), int(shows_after))
    return range(new.start - before, new.start), range(new.stop, new.stop + after)


def _shot_around(new: range, shots: Sequence[Shot]) -> Shot:
    """Return the shot that holds the new frames; refuse new frames on both sides of a cut."""
    shot = next(shot for shot in shots if shot.start <= new.start < shot.stop)
    if new.stop > shot.stop:
        reason = f"extend: frames {new.start}..{new.stop - 1} cross the cut at frame {shot.stop}; extend shot by shot"
        raise ClipError("extension_over_cut", reason)
    return shot


def _spare_frames(extend: Extend, num_new: int, sides: int, limits: WindowLimits) -> int:
    """Return how many known frames a window takes beside the new ones; refuse a window without one for each side."""
    if num_new + sides > limits.max_frames:
        needed = f"extend: {num_new} new frames and {sides} known"
        reason = f"{needed}; a window of this row takes {limits.max_frames} frames (sampling.max_frames)"
        raise ClipError("extension_too_long", reason)
    spare = limits.max_frames - num_new
    if extend.unit == "frame":
        spare = min(spare, legal_num_frames(num_new + sides) - num_new)
    return spare


def canvas_masks(
    job: Job, canvas: Canvas, masks: Iterable[FrameMask], frames: range, new: range
) -> Iterator[FrameMask]:
    """Merge the source's masks with the canvas's own: its border outside the source, and its new frames.

    `masks` rise by frame. `frames` are the source's frames that the job covers, counted on the canvas.
    """
    outside = _outside(canvas)
    whole = box_mask(0, Box(0, 0, canvas.size.width, canvas.size.height))
    only_new = job.processes == ("extension", "repaint")
    span = range(min([*frames[:1], *new[:1]]), max(frames.stop, new.stop))
    for index, source_mask in _by_canvas_frame(masks, canvas, span):
        parts: list[FrameMask] = []
        if source_mask is not None and (index in new or not only_new):
            parts.append(source_mask)
        if index in new and not only_new:
            parts = [whole]
        elif outside is not None and index in frames:
            parts.append(outside)
        mask = merge_masks(parts)
        if mask is not None:
            yield FrameMask(index=index, box=mask.box, bits=mask.bits)


def _by_canvas_frame(
    masks: Iterable[FrameMask], canvas: Canvas, frames: range
) -> Iterator[tuple[int, FrameMask | None]]:
    """Pair each of the canvas's `frames` with the source's mask, moved to the canvas, or None.

    `masks` rise by frame.
    """
    source_masks = iter(masks)
    upcoming = next(source_masks, None)
    for index in frames:
        if upcoming is not None and upcoming.index + canvas.before == index:
            yield index, on_canvas(upcoming, canvas)
            upcoming = next(source_masks, None)
        else:
            yield index, None


def on_canvas(mask: FrameMask, canvas: Canvas) -> FrameMask:
    """Move a mask of the source to its frame and place on the canvas."""
    return replace(mask, index=mask.index + canvas.before, box=mask.box.shift(canvas.source.x, canvas.source.y))


def _outside(canvas: Canvas) -> FrameMask | None:
    """Mask the pixels of the canvas outside the kept part of the source."""
    bits = np.ones((canvas.size.height, canvas.size.width), np.bool_)
    bits[canvas.kept.slices] = False
    return make_mask(0, bits)


def _added_px(share: float, side: int) -> int:
    return align_up(math.ceil(share * side - 1e-9), TOKEN_PX)
