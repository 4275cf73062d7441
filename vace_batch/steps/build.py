"""Build the Video Condition Unit (VCU) of one window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vace_batch.ledger.ledger import Ledger
from vace_batch.masks.import_files import read_mask_picture
from vace_batch.masks.levels import MaskLevels
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.steps.control_videos import control_videos
from vace_batch.storage.node_cache import local_file
from vace_batch.vcu import tasks
from vace_batch.vcu.frames import canvas_frames, model_mask, with_recovered
from vace_batch.vcu.unit import VCU
from vace_batch.video.reader import read_image
from vace_batch.video.scaling import resize


def build(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> VCU:
    """Build the VCU of one window: frames and masks of its crop at model size, controls and references.

    Raises:
        ClipError: the source or a reference cannot be read, or a reference's mask is no mask.
    """
    window = planned.window
    region = plan.region_of(planned)
    with plan.open_files(Ledger(work.out)) as files:
        holes = files.masks("holes", window.start, window.stop)
        selection = files.masks("selection", window.start, window.stop)
        protected = files.masks("protected", window.start, window.stop)
        patches = files.patches(window.start, window.stop)
    with work.source() as path:
        frames = [
            resize(with_recovered(pixels, window.box, patches.get(index)), region.size)
            for index, pixels in canvas_frames(path, plan.canvas, window, plan.span, planned.start_pts)
        ]
        controls = control_videos(work, plan, planned, path, selection)
    held = window.num_frames - len(frames)
    masks = selection if len(work.job.controls) == 2 and plan.selection else holes
    indices = range(window.start, window.stop)
    mask_THW = np.stack([model_mask(masks.get(i), protected.get(i), plan.size, window.box, region) for i in indices])
    known_T = np.array([i not in plan.new_frames for i in indices])
    arrays = tasks.WindowArrays(
        frames_THWC=np.stack(frames + frames[-1:] * held),
        mask_THW=np.concatenate([mask_THW, mask_THW[-1:].repeat(held, axis=0)]),
        references=_reference_pictures(work, "reference_uris", lambda path, _: read_image(path)),
        reference_masks=_reference_pictures(work, "reference_mask_uris", _reference_mask) or None,
        controls=controls,
        known_T=np.concatenate([known_T, known_T[-1:].repeat(held)]),
    )
    window_id = work.window_key(planned, region)
    return tasks.make_vcu(work.job, arrays, window_id=window_id, seed=work.seed(planned), sampling=work.sampling)


def _reference_mask(path: str, cell: str) -> NDArray[np.uint8]:
    """Read the mask of a reference as brightness (H, W), and refuse a picture that is no mask."""
    levels = MaskLevels(column=cell)
    gray = read_mask_picture(Path(path), levels)
    levels.finish()
    return gray


def _reference_pictures(
    work: ClipWork, column: str, read: Callable[[str, str], NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], ...]:
    """Read the pictures of a column by `read`, which takes a local path and the file's place in the row."""
    pictures = []
    for file in work.job.files():
        if file.column == column:
            with local_file(file.uri, file.fingerprint_name, work.fingerprints) as path:
                pictures.append(read(path, file.cell))
    return tuple(pictures)
