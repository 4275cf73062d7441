"""A job whose mask is a box that moves over a clip, and a reader of exported masks."""

from __future__ import annotations

from pathlib import Path

from tests.support.media_files import Media, make
from vace_batch.geometry import Size
from vace_batch.manifest.job import BoxKey, Dilation, Job
from vace_batch.masks.import_files import read_masks

SIZE, NUM_FRAMES = Size(64, 48), 6


def job(tmp_path: Path, first: int = 8) -> Job:
    """Make a clip and its job; the box moves from x = `first` by 6 px a frame."""
    path = tmp_path / "clip.mkv"
    if not path.exists():
        make(path, Media(num_frames=NUM_FRAMES, codec="ffv1"))
    boxes = tuple(BoxKey(x=first + 6 * index, y=12, width=12, height=12, frame=index) for index in range(NUM_FRAMES))
    return Job(job_id="a", video_uri=str(path), task="removal", boxes=boxes, dilate=Dilation(px=0.0))


def boxes(path: Path) -> list[int]:
    """Read the left edges of the masks of a whole file."""
    masks = list(read_masks(str(path), SIZE, NUM_FRAMES))
    assert [mask.index for mask in masks] == list(range(NUM_FRAMES))
    return [mask.box.x for mask in masks]
