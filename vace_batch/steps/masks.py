"""Write a clip's masks on its canvas: the masks that the job asks for, and the pixels that the canvas adds."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vace_batch.geometry import TOKEN_PX, Box
from vace_batch.manifest.job import Dilation, Job, Pick
from vace_batch.masks.clip import MaskRequest, clip_masks, whole_frames
from vace_batch.masks.notes import Notes
from vace_batch.masks.refine import dilate, split_parts, subtract
from vace_batch.masks.store import FrameMask, MaskReader, MaskSummary, MaskWriter, merge_masks, write_masks
from vace_batch.planning.canvas import canvas_masks, on_canvas
from vace_batch.planning.windows import Shot, Window, WindowLimits, plan_clip
from vace_batch.steps.open_clip import OpenClip
from vace_batch.video.read_ahead import CHUNK_FRAMES

_MOST_PASSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipMasks:
    """The masks of a clip in the local `file`, which is empty if `masked_frames` is 0.

    `selection` is the file of masks that steer, `protected` the file of pixels that must not change; None without one.
    `notes` are for the clip's result, and the `doubts` among them for its verdict. `nothing` is the reason of an empty
    file.
    """

    file: str
    masked_frames: int
    selection: str | None
    protected: str | None
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    nothing: str | None = None


def find_masks(clip: OpenClip) -> ClipMasks:
    """Write the masks of a clip to files: masks of the pixels to change, masks that steer, and masks that protect.

    Raises:
        ClipError: the job's boxes, mask files or weights cannot be used, and the errors of reading.
    """
    job = clip.job
    request = MaskRequest(
        job=job,
        path=clip.path,
        size=clip.size,
        scan=clip.scan,
        frame_range=clip.frame_range,
        models=clip.models,
        fingerprints=clip.work.fingerprints,
    )
    file = clip.file("masks")
    summary, protected = _write_canvas_masks(clip, request, file)
    if job.dilate and job.dilate.tokens and summary.boxes:
        tokens = job.dilate.tokens
        summary = dilate_at_model_scale(summary, file, protected, tokens, clip.shots, clip.work.limits)
    selection = None
    if job.masks_select and job.has_mask_source:
        selection = clip.file("selection")
        if not write_masks(selection, clip.size, clip_masks(request)).boxes:
            request.notes.doubt(f"no_selection: {nothing_reason(job, request.notes)}")
    return ClipMasks(
        file=file,
        masked_frames=len(summary.boxes),
        selection=selection,
        protected=protected,
        notes=tuple(request.notes.notes),
        doubts=tuple(request.notes.doubts),
        nothing=None if summary.boxes else nothing_reason(job, request.notes),
    )


def nothing_reason(job: Job, notes: Notes) -> str:
    """Say why the masks of a clip are empty: the classes or sources searched, and the number of frames."""
    frames = f"{notes.frames:,} frames"
    if notes.selected:
        return f"all masked pixels are protected, in {frames}"
    if job.targets:
        names = " or ".join(job.targets)
        kept = "" if job.pick == Pick() else " that `pick` keeps"
        others = "" if notes.detected == notes.frames else f" of {notes.frames:,}"
        return f"no {names}{kept} was found in {notes.detected:,} frames looked at{others}"
    if job.mask_uri:
        return f"mask_uri masks nothing in {frames}"
    if job.points:
        return f"no object was found at the points, in {frames}"
    return f"the boxes cover none of {frames}" if job.boxes else f"nothing was to change in {frames}"


def _write_canvas_masks(clip: OpenClip, request: MaskRequest, file: str) -> tuple[MaskSummary, str | None]:
    """Write the masks of the job and of the canvas to `file`, or whole frames if the job and the canvas have none.

    Returns the masks' summary and the file of protected pixels, None without any.
    """
    job = clip.job
    canvas = clip.canvas
    protected = clip.file("protected")
    start, stop = clip.frame_range
    canvas_decides = _canvas_decides(clip)
    request = _of_pixels_to_change(request)
    with contextlib.ExitStack() as stack:
        masks: Iterator[FrameMask] = iter(()) if canvas_decides else whole_frames(request)
        guards = stack.enter_context(MaskWriter(protected, canvas.size)) if job.protects else None
        if request.job.has_mask_source or (guards is not None and not canvas_decides):
            guard = None if guards is None else lambda mask: guards.add(on_canvas(mask, canvas))
            masks = clip_masks(request, guard)
        frames = range(start + canvas.before, stop + canvas.before)
        summary = write_masks(file, canvas.size, canvas_masks(job, canvas, masks, frames, clip.new))
    is_protected = guards is not None and bool(guards.summary.boxes)
    return summary, protected if is_protected else None


def _of_pixels_to_change(request: MaskRequest) -> MaskRequest:
    """Leave out the mask sources of a job whose masks steer; `find_masks` writes such masks to a file of their own."""
    if not request.job.masks_select:
        return request
    return replace(request, job=replace(request.job, boxes=(), points=(), targets=(), mask_uri=None, segmenter=None))


def _canvas_decides(clip: OpenClip) -> bool:
    """Tell whether the job generates new pixels or frames of the canvas, and so needs no other mask."""
    grows = clip.canvas.kept.size != clip.canvas.size or bool(clip.new)
    return grows and clip.job.processes[:1] != ("control",)


def parts_of(reader: MaskReader, num_frames: int) -> dict[int, tuple[Box, ...]]:
    """Return the boxes of the connected parts of each frame's mask."""
    parts: dict[int, tuple[Box, ...]] = {}
    for start in range(0, num_frames, CHUNK_FRAMES):
        for index, mask in reader.get(start, start + CHUNK_FRAMES).items():
            parts[index] = tuple(part.box for part in split_parts(mask))
    return parts


def dilate_at_model_scale(
    summary: MaskSummary, file: str, protected: str | None, tokens: float, shots: Sequence[Shot], limits: WindowLimits
) -> MaskSummary:
    """Widen the masks of a local file where the model sees their crop shrunk, so that `tokens` are tokens of the model.

    The masks are already dilated by `tokens` of 16 px; a shrunk crop's tokens cover more source pixels. Wider masks may
    need a larger crop, so the pass is repeated while the masks change. Returns the summary of the widened masks.
    """
    reader = MaskReader(file)
    guards = None if protected is None else MaskReader(protected)
    num_frames = max(summary.boxes) + 1
    planned = reader
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        for number in range(_MOST_PASSES):
            regions, windows = plan_clip(parts_of(planned, num_frames), shots, summary.size, limits)
            growth = [(window, tokens * max(0, regions[window.region].token_px - TOKEN_PX)) for window in windows]
            wider_file = str(Path(folder, f"{number}.parquet"))
            wider = write_masks(wider_file, summary.size, _widened(reader, guards, growth, num_frames))
            if wider.digest == summary.digest:
                break
            summary = wider
            planned = MaskReader(wider_file)
        if planned is not reader:
            shutil.copyfile(wider_file, file)
    return summary


def _widened(
    reader: MaskReader, guards: MaskReader | None, growth: Sequence[tuple[Window, float]], num_frames: int
) -> Iterator[FrameMask]:
    """Dilate each part of a mask by the growth of the windows that hold the part; protected pixels stay out."""
    for start in range(0, num_frames, CHUNK_FRAMES):
        protected = {} if guards is None else guards.get(start, start + CHUNK_FRAMES)
        for index, mask in reader.get(start, start + CHUNK_FRAMES).items():
            holding = [(window.box, px) for window, px in growth if window.start <= index < window.stop]
            parts = []
            for part in split_parts(mask):
                px = min((px for box, px in holding if box.intersect(part.box) == part.box), default=0.0)
                parts.append(dilate(part, reader.size, Dilation(px=px)))
            wider = subtract(merge_masks(parts), protected.get(index))
            yield mask if wider is None else wider
