"""A clip's masks on its canvas, written to a file: what the job's source of masks finds, and what the canvas adds."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box
from vace_batch.manifest.job import Dilation, Job
from vace_batch.masks.clip import MaskRequest, clip_masks, whole_frames
from vace_batch.masks.refine import dilate, split_parts, subtract
from vace_batch.masks.store import FrameMask, MaskReader, MaskSummary, MaskWriter, merge_masks, write_masks
from vace_batch.planning.canvas import canvas_masks
from vace_batch.planning.windows import Limits, Shot, Window, plan_clip
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.read_ahead import CHUNK_FRAMES
from vace_batch.video.shots import Scan

_MOST_PASSES = 4


def frame_range_of(job: Job, found: Scan, time_base: Fraction) -> tuple[int, int]:
    """Frames shown in start_s <= t < end_s, t from the first frame on."""
    times = (np.asarray(found.pts) - int(found.pts[0])) * float(time_base)
    start = 0 if job.start_s is None else int(np.searchsorted(times, job.start_s - 1e-6))
    stop = found.num_frames if job.end_s is None else int(np.searchsorted(times, job.end_s - 1e-6))
    if start >= stop:
        asked = f"start_s {job.start_s} to end_s {job.end_s}"
        raise ClipError("empty_range", f"{asked} holds no frame; the last one is shown at {times[-1]:.3f} s")
    return start, stop


def make_masks(
    request: MaskRequest, canvas: Canvas, new: range, target: str, protected: str
) -> tuple[MaskSummary, bool]:
    """Write the mask file of a clip: what is found, what the canvas adds; all of the picture where neither is asked.

    What must not change goes to the file `protected`, which is only made where there is something; also says whether.
    """
    job = request.job
    start, stop = request.frame_range
    canvas_decides = (canvas.kept.size != canvas.size or new) and job.processes[:1] != ("control",)
    if job.masks_select:
        without_masks = replace(job, boxes=(), points=(), targets=(), mask_uri=None, segmenter=None)
        request = replace(request, job=without_masks)
    with contextlib.ExitStack() as stack:
        masks: Iterator[FrameMask] = iter(()) if canvas_decides else whole_frames(request)
        guards = stack.enter_context(MaskWriter(protected, canvas.size)) if job.protects else None
        if request.job.has_mask_source or (guards is not None and not canvas_decides):
            guard = None if guards is None else lambda mask: guards.add(_on_canvas(mask, canvas))
            masks = clip_masks(request, guard)
        frames = range(start + canvas.before, stop + canvas.before)
        summary = write_masks(target, canvas.size, canvas_masks(job, canvas, masks, frames, new))
    return summary, guards is not None and bool(guards.summary.boxes)


def _on_canvas(mask: FrameMask, canvas: Canvas) -> FrameMask:
    return replace(mask, index=mask.index + canvas.before, box=mask.box.shift(canvas.source.x, canvas.source.y))


def parts_of(reader: MaskReader, num_frames: int) -> dict[int, tuple[Box, ...]]:
    """The boxes of the connected parts of every frame's mask."""
    parts: dict[int, tuple[Box, ...]] = {}
    for start in range(0, num_frames, CHUNK_FRAMES):
        for index, mask in reader.get(start, start + CHUNK_FRAMES).items():
            parts[index] = tuple(part.box for part in split_parts(mask))
    return parts


def dilate_at_model_scale(
    masked: MaskSummary, masks: str, protected: str | None, tokens: float, shots: Sequence[Shot], limits: Limits
) -> MaskSummary:
    """Widen masks in the file `masks` that are dilated by `tokens` of 16 px where the model sees a crop smaller than it
    is, which makes its tokens larger. A wider mask may make a larger crop, so this is repeated while it changes."""
    reader, guards = MaskReader(masks), None if protected is None else MaskReader(protected)
    plan, num_frames = reader, max(masked.boxes) + 1
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        for number in range(_MOST_PASSES):
            regions, windows = plan_clip(parts_of(plan, num_frames), shots, masked.size, limits)
            where = [(window, tokens * max(0, regions[window.region].token_px - TOKEN_PX)) for window in windows]
            wider = str(Path(folder, f"{number}.parquet"))
            made = write_masks(wider, masked.size, _widened(reader, guards, where, num_frames))
            if made.digest == masked.digest:
                break
            masked, plan = made, MaskReader(wider)
        if plan is not reader:
            shutil.copyfile(wider, masks)
    return masked


def _widened(
    reader: MaskReader, guards: MaskReader | None, where: Sequence[tuple[Window, float]], num_frames: int
) -> Iterator[FrameMask]:
    for start in range(0, num_frames, CHUNK_FRAMES):
        kept = {} if guards is None else guards.get(start, start + CHUNK_FRAMES)
        for index, mask in reader.get(start, start + CHUNK_FRAMES).items():
            holding = [(window.box, px) for window, px in where if window.start <= index < window.stop]
            parts = []
            for part in split_parts(mask):
                px = min((px for box, px in holding if box.intersect(part.box) == part.box), default=0.0)
                parts.append(dilate(part, reader.size, Dilation(px=px)))
            wider = subtract(merge_masks(parts), kept.get(index))
            yield mask if wider is None else wider
