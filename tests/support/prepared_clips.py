"""Jobs on one small clip, prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
from skimage.data import astronaut

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.manifest.job import Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps import prepare as prepare_step
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.vcu.unit import VCU

FRAMES = 24
Prepare = Callable[..., tuple[ClipWork, ClipPlan]]
Windows = Callable[..., list[VCU]]


def preparer(folder: Path) -> Prepare:
    """Make a clip and a reference picture `face.png` in `folder`; return a function that prepares jobs on the clip."""
    path = folder / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=FRAMES))
    cv2.imwrite(str(folder / "face.png"), astronaut()[..., ::-1])

    def prepare(task: str, media: Media | None = None, **fields: object) -> tuple[ClipWork, ClipPlan]:
        if media:
            make(path, media)
        job = Job(job_id="j", video_uri=str(path), task=task, prompt="x", background="off")
        row = replace(job, **fields)  # type: ignore[arg-type]
        [work] = works_of([row], str(folder / "out"), Options(), str(folder))
        return work, prepare_step.prepare(work, MaskModels())

    return prepare
