"""Make a job's masks alone, with a video that shows them over the source."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.output_names import safe_name
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.export_files import SUFFIXES, every_mask, export_masks
from vace_batch.masks.models import MaskModels, check_names
from vace_batch.masks.notes import Notes
from vace_batch.masks.store import MaskReader, write_masks
from vace_batch.steps.admission import admit, check_bytes
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.open_clip import frame_range_of
from vace_batch.storage import files as storage
from vace_batch.video.encoders import DEFAULT_RATE
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.scaling import Image, shrink_to
from vace_batch.video.shots import scan
from vace_batch.video.writer import write_clip

_TINT = np.array([255, 40, 40], np.uint16)
_YELLOW = (255, 255, 0)
_LONGEST_PX = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """The result of `review` for one job: its mask file and overlay video, or its error."""

    job_id: str
    frames: int = 0
    masked_frames: int = 0
    masks: str | None = None
    overlay: str | None = None
    objects: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def review(work: ClipWork, models: MaskModels, out: str, form: str) -> Reviewed:
    """Make one job's masks, and a video that shows them over the source with each object's number.

    The files are `<out>/<name of the job>.<suffix>` and `<out>/<name of the job>-overlay.mp4`. Each appears when it is
    whole, and replaces an earlier one.
    """
    job = work.job
    try:
        if not job.has_mask_source:
            raise ClipError("no_mask_source", "the job has no boxes, mask_uri, targets or points")
        admit(job, work.roots, work.options)
        check_bytes(job, work.options.media)
        check_names(job, models)
        return _reviewed(work, models, out, form)
    except ClipError as error:
        return Reviewed(job_id=job.job_id, error=str(error))


def _reviewed(work: ClipWork, models: MaskModels, out: str, form: str) -> Reviewed:
    job = work.job
    name = safe_name(job.job_id)
    notes = Notes(objects={})
    with work.source() as path, tempfile.TemporaryDirectory(prefix="vace-batch-") as scratch:
        info = probe(path)
        scanned = scan(path)
        request = MaskRequest(
            job=job,
            path=path,
            size=info.size,
            scan=scanned,
            frame_range=frame_range_of(job, scanned.pts, info.time_base),
            models=models,
            fingerprints=work.fingerprints,
            notes=notes,
        )
        stored = str(Path(scratch, "masks.parquet"))
        write_masks(stored, info.size, clip_masks(request))
        reader = MaskReader(stored)
        rate = info.average_rate or DEFAULT_RATE
        masks, masks_draft = _target_and_draft(out, f"{name}{SUFFIXES[form]}")
        export_masks(reader, scanned.num_frames, rate, form, masks, masks_draft)
        overlay, overlay_draft = _target_and_draft(out, f"{name}-overlay.mp4")
        with storage.staging(overlay, overlay_draft) as target:
            write_clip(target, _overlays(path, reader, scanned.num_frames, notes), rate=rate, crf=20)
    num_frames = Counter(name for named in (notes.objects or {}).values() for name, _ in named)
    return Reviewed(
        job_id=job.job_id,
        frames=scanned.num_frames,
        masked_frames=len(reader.boxes()),
        masks=masks,
        overlay=overlay,
        objects=tuple(f"{name}: {count} frames" for name, count in num_frames.items()),
        notes=tuple(notes.notes),
    )


def _target_and_draft(out: str, file: str) -> tuple[str, str]:
    """Return the URIs of a file and of its draft; fixed names, so that a killed review's draft is overwritten."""
    return storage.join(out, file), storage.join(out, f".draft-{file}")


def _overlays(path: str, reader: MaskReader, num_frames: int, notes: Notes) -> Iterator[Image]:
    """Yield frames with tinted masks and each tracked object's box and name, at most 1,280 px long."""
    longest = shrink_to(reader.size, _LONGEST_PX)
    size = Size(longest.width // 2 * 2, longest.height // 2 * 2)
    scale = size.width / reader.size.width
    for frame, mask in zip(read_frames(path), every_mask(reader, num_frames), strict=False):
        canvas = frame.small(size)
        if mask is not None:
            full = mask.full(reader.size).view(np.uint8)
            small = cv2.resize(full, (size.width, size.height), interpolation=cv2.INTER_AREA).astype(np.bool_)
            canvas[small] = ((canvas[small].astype(np.uint16) + _TINT) // 2).astype(np.uint8)
        for name, box in (notes.objects or {}).get(frame.index, ()):
            _draw_object(canvas, name, box, scale)
        yield canvas


def _draw_object(canvas: Image, name: str, box: Box, scale: float) -> None:
    """Draw an object's box and name."""
    left = round(box.x * scale)
    top = round(box.y * scale)
    cv2.rectangle(canvas, (left, top), (round(box.right * scale), round(box.bottom * scale)), _YELLOW, 1)
    cv2.putText(canvas, name, (left, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _YELLOW, 1)
