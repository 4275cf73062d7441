"""Recover the background under a clip's masks; the masked pixels that stay unknown are its holes."""

from __future__ import annotations

from dataclasses import dataclass

from vace_batch.background.clip import ClipSource, recover_clip
from vace_batch.planning.stills import StillSegments
from vace_batch.steps.masks import ClipMasks
from vace_batch.steps.open_clip import OpenClip


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """The masks left for the model, in the local `file`, which is the mask file itself if no pixel was recovered.

    `recovered` is the file of recovered pixels, None without any, and `recovered_share` their share of the masked
    pixels. `stillness` says which holes lie in a still picture.
    """

    file: str
    is_empty: bool
    recovered: str | None
    recovered_share: float
    stillness: StillSegments


def recover(clip: OpenClip, masks: ClipMasks) -> Holes:
    """Recover pixels under the masks of a removal.

    The masks of other jobs, and of a clip that was opened without models, are kept as they are.

    Raises:
        ClipError: the video cannot be read.
    """
    job = clip.job
    recovers = job.task == "removal" and job.background == "auto" and clip.models is not None
    if not recovers or not masks.masked_frames:
        return Holes(
            file=masks.file,
            is_empty=not masks.masked_frames,
            recovered=None,
            recovered_share=0.0,
            stillness=StillSegments(),
        )
    source = ClipSource(path=clip.path, size=clip.size, pts=clip.scan.pts, masks=masks.file)
    recovered = clip.file("recovered")
    file = clip.file("holes")
    summary, share, stillness = recover_clip(source, clip.shots, recovered, file, job, clip.work.limits)
    return Holes(
        file=file if share else masks.file,
        is_empty=not summary.boxes,
        recovered=recovered if share else None,
        recovered_share=share,
        stillness=stillness,
    )
