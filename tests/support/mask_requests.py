"""Jobs and requests for masks, and small clips to make them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size
from vace_batch.manifest.job import Dilation, Job
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip


def removal(**fields: Any) -> Job:
    """A job whose masks are not dilated."""
    return Job(job_id="job", video_uri="video", task="removal", **{"dilate": Dilation(px=0.0), **fields})


def request_of(job: Job, path: str | Path, size: Size, num_frames: int, **fields: Any) -> MaskRequest:
    """A request for all frames of one shot, without weights."""
    scan = Scan(num_frames=num_frames, pts=(), cuts=())
    defaults: dict[str, Any] = {"models": MaskModels(), "frame_range": (0, num_frames)} | fields
    return MaskRequest(job=job, path=str(path), size=size, scan=scan, **defaults)


def masks_of(request: MaskRequest) -> dict[int, FrameMask]:
    """The request's masks by frame."""
    return {mask.index: mask for mask in clip_masks(request)}


def panned(size: Size, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of a landscape of coarse noise that moves to the left."""
    coarse = np.random.default_rng(0).integers(60, 200, (18, 64, 3), np.uint8)
    wide = cv2.resize(coarse, (size.width * 2, size.height), interpolation=cv2.INTER_CUBIC)
    for index in range(num_frames):
        yield np.asarray(wide[:, 5 * index : 5 * index + size.width], np.uint8).copy()


def write(path: Path, frames: Iterable[NDArray[np.uint8]]) -> Path:
    """Write frames to a video at 25 frames a second."""
    write_clip(str(path), frames, rate=Fraction(25))
    return path
