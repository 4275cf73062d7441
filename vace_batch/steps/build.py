"""Build the VCU of one window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vace_batch.background.patches import PatchReader
from vace_batch.masks.store import MaskReader
from vace_batch.steps.clip import ClipWork, _files
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.storage.node_cache import local_file
from vace_batch.vcu import tasks
from vace_batch.vcu.frames import canvas_frames, control_videos, model_mask, with_recovered
from vace_batch.vcu.unit import VCU
from vace_batch.video.reader import read_image
from vace_batch.video.scaling import resize


def build(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> VCU:
    """The VCU of one window: frames and masks of its crop at model size, references on their canvas.

    Raises:
        ClipError: a reference cannot be read.
    """
    window, region = planned.window, plan.regions[planned.window.region]
    with _files(work, plan) as files:
        masks = MaskReader(files["holes"]).get(window.start, window.stop)
        selection = MaskReader(files["selection"]).get(window.start, window.stop) if plan.selection else {}
        guards = MaskReader(files["protected"]).get(window.start, window.stop) if plan.protected else {}
        patches = PatchReader(files["recovered"]).get(window.start, window.stop) if plan.recovered else {}
    with work.source() as path:
        frames = [
            resize(with_recovered(pixels, window.box, patches.get(index)), region.size)
            for index, pixels in canvas_frames(path, plan.canvas, window, plan.span, planned.start_pts)
        ]
        controls = control_videos(
            work.job,
            path,
            window,
            size=plan.size,
            model_size=region.size,
            start_pts=planned.start_pts,
            lead_pts=planned.lead_pts,
            num_frames=plan.num_frames,
            scales=plan.scales[region.shot] if plan.scales else {},
            selection=selection,
            models=work.control_models,
        )
    held = window.num_frames - len(frames)
    said = selection if len(work.job.controls) == 2 and plan.selection else masks
    span = range(window.start, window.stop)
    mask_THW = np.stack([model_mask(said.get(i), guards.get(i), plan.size, window.box, region) for i in span])
    known_T = np.array([i not in range(*plan.new) for i in span])
    return tasks.make_vcu(
        work.job,
        window_id=work.window_key(planned, region),
        frames_THWC=np.stack(frames + frames[-1:] * held),
        mask_THW=np.concatenate([mask_THW, mask_THW[-1:].repeat(held, axis=0)]),
        references=_pictures(work, "reference_uris"),
        reference_masks=_pictures(work, "reference_mask_uris", gray=True) or None,
        controls=controls,
        known_T=np.concatenate([known_T, known_T[-1:].repeat(held)]),
        seed=work.seed(planned),
        sampling=work.sampling,
    )


def _pictures(work: ClipWork, column: str, *, gray: bool = False) -> tuple[NDArray[np.uint8], ...]:
    pictures = []
    for number, uri in enumerate(getattr(work.job, column)):
        with local_file(uri, f"{column}.{number}", work.fingerprints) as path:
            pictures.append(read_image(path, gray=gray))
    return tuple(pictures)
