"""Open a clip for planning: admit the job, probe and scan the video, lay out canvas and shots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.manifest.job import Job
from vace_batch.masks.models import MaskModels, check_names
from vace_batch.planning.canvas import canvas_of, canvas_shots, new_frames
from vace_batch.planning.windows import Shot
from vace_batch.steps.admission import admit, check_bytes
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import FileKind
from vace_batch.storage import files as storage
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.probe import probe
from vace_batch.video.shots import Scan, scan
from vace_batch.video.writer import check_output


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClip:
    """A clip that is open for planning: its local video at `path` is scanned, its canvas and shots are laid out.

    `size` is the source's display size. `frame_range` is (start, stop) in source frames; `shots` and `new`, the frames
    that extend the source, count on the canvas. `models` None forbids detector and segmenter. The plan's files are
    written to the local `folder`.
    """

    work: ClipWork
    models: MaskModels | None
    folder: Path
    path: str
    size: Size
    source_bytes: int
    scan: Scan
    canvas: Canvas
    shots: tuple[Shot, ...]
    frame_range: tuple[int, int]
    new: range

    @property
    def job(self) -> Job:
        return self.work.job

    @property
    def num_frames(self) -> int:
        """The number of frames of the canvas."""
        return self.canvas.before + self.scan.num_frames + self.canvas.after

    def file(self, kind: FileKind) -> str:
        """Return the local path of a file of the plan."""
        return str(self.folder / f"{kind}.parquet")


@contextlib.contextmanager
def open_clip(work: ClipWork, models: MaskModels | None, folder: Path) -> Iterator[OpenClip]:
    """Check the request, then probe and scan the video; its local copy lasts as long as the clip is open.

    Raises:
        ClipError: the job is refused, or the video or the request cannot be used.
    """
    check_request(work, models)
    with work.source() as path:
        info = probe(path, work.options.media)
        source_bytes = storage.num_bytes(path)
        canvas = canvas_of(work.job, info.size, info.average_rate)
        # A container that cannot hold the output is refused before the work of detector and model.
        check_output(info, work.output, EncoderSettings(crf=work.options.crf), canvas.if_grown)
        frames = scan(path, work.options.media)
        frame_range = frame_range_of(work.job, frames.pts, info.time_base)
        yield OpenClip(
            work=work,
            models=models,
            folder=folder,
            path=path,
            size=info.size,
            source_bytes=source_bytes,
            scan=frames,
            canvas=canvas,
            shots=canvas_shots(frames.cuts, frames.num_frames, canvas),
            frame_range=frame_range,
            new=new_frames(work.job, canvas, frames.num_frames, frame_range),
        )


def check_request(work: ClipWork, models: MaskModels | None) -> None:
    """Check a request before its video is opened; `models` None leaves out the check of class names.

    Raises:
        ClipError: the job was refused when it was planned, or is refused now; a file is too large; a class is unknown.
    """
    if work.refused is not None:
        raise work.refused
    admit(work.job, work.roots, work.options)  # a size is asked only of files that the job may name
    check_bytes(work.job, work.options.media)
    if models is not None:
        check_names(work.job, models)


def frame_range_of(job: Job, pts: Sequence[int], time_base: Fraction) -> tuple[int, int]:
    """Return the frames (start, stop) shown at start_s <= t < end_s, where t is 0 at the first of the times `pts`.

    Raises:
        ClipError: `empty_range`.
    """
    times = (np.asarray(pts) - int(pts[0])) * float(time_base)
    start = 0 if job.start_s is None else int(np.searchsorted(times, job.start_s - 1e-6))
    stop = len(pts) if job.end_s is None else int(np.searchsorted(times, job.end_s - 1e-6))
    if start >= stop:
        asked = f"start_s {job.start_s or 0:g} s to end_s {'the end' if job.end_s is None else f'{job.end_s:g} s'}"
        raise ClipError("empty_range", f"{asked} holds no frame; the last frame is shown at {times[-1]:.3f} s")
    return start, stop
