"""Prepare a clip: survey its video and commit its plan.

The other steps follow: build, generate, stitch, measure. `batch/graph.py` runs them on a cluster, one step a unit. Each
step first looks for its record in the ledger and commits the record last, so a finished step never runs again.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from pathlib import Path

from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import Ledger
from vace_batch.masks.models import MaskModels
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import CLIP_PLAN, ClipPlan
from vace_batch.steps.cut_windows import WindowCut, cut_windows
from vace_batch.steps.holes import Holes, recover
from vace_batch.steps.masks import ClipMasks, find_masks
from vace_batch.steps.open_clip import OpenClip, open_clip
from vace_batch.storage import files as storage
from vace_batch.vcu.controls.videos import Scale
from vace_batch.vcu.frames import measure_shots


def prepare(work: ClipWork, models: MaskModels) -> ClipPlan:
    """Plan a clip, publish the plan's files, and commit the plan to the ledger.

    Raises:
        ClipError: the video, the masks or the request cannot be used; `nothing_found`.
    """
    ledger = Ledger(work.out)
    while (record := ledger.prep(work.prep_key)) is None:
        with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
            plan = survey(work, models, Path(folder))
            # Two kinds may share a file, which is published once.
            published = {file: _published(ledger, work, file) for file in dict.fromkeys(plan.files.values())}
            plan = plan.with_files({kind: published[file] for kind, file in plan.files.items()})
        if not ledger.commit(work.prep_key, {"plan": CLIP_PLAN.dump_python(plan, mode="json")}):
            # Another attempt committed first: its files count, the files of this attempt go.
            for file in published.values():
                storage.delete(ledger.absolute(file))
    plan = CLIP_PLAN.validate_python(record["plan"])
    check_found(work, plan)
    return plan


def check_found(work: ClipWork, plan: ClipPlan) -> None:
    """Refuse a plan that changes nothing, for a job that expects its masks to be found.

    Raises:
        ClipError: `nothing_found`.
    """
    if plan.masks is None and work.expects_found:
        reason = plan.nothing or "nothing to change was found"
        raise ClipError("nothing_found", f"{reason}; expect_found says that it is there")


def _published(ledger: Ledger, work: ClipWork, file: str) -> str:
    """Move a file of the plan into OUT under a name of this attempt; returns the name, relative to OUT."""
    uri = ledger.artifact_uri(work.prep_key, "." + posixpath.basename(file))
    with storage.staging(uri, uri + ".draft") as target:
        shutil.move(file, target)
    return ledger.relative(uri)


def survey(work: ClipWork, models: MaskModels, folder: Path, *, look: bool = True) -> ClipPlan:
    """Plan a clip: open it, find its masks, recover its background, cut its windows.

    The plan's files are made in the local `folder`. `look` False runs neither detector nor segmenter: where the job
    needs one, the whole frame counts as masked.

    Raises:
        ClipError: as `prepare`.
    """
    with open_clip(work, models if look else None, folder) as clip:
        masks = find_masks(clip)
        scales = measure_scales(clip)
        holes = recover(clip, masks)
    return plan_of(clip, masks, scales, holes, cut_windows(clip, masks, holes))


def measure_scales(clip: OpenClip) -> tuple[dict[str, Scale], ...]:
    """Measure the ranges of the controls in each shot; empty for a clip that was opened without models."""
    if clip.models is None:
        return ()
    return measure_shots(clip.job, clip.path, clip.shots, clip.scan.pts, clip.work.control_models)


def plan_of(
    clip: OpenClip, masks: ClipMasks, scales: tuple[dict[str, Scale], ...], holes: Holes, cut: WindowCut
) -> ClipPlan:
    """Assemble the plan from the results of `survey`'s parts."""
    return ClipPlan(
        size=clip.canvas.size,
        num_frames=clip.num_frames,
        canvas=clip.canvas,
        new=(clip.new.start, clip.new.stop),
        scales=scales,
        shots=clip.shots,
        regions=cut.regions,
        windows=cut.windows,
        stills=cut.stills,
        masked_frames=masks.masked_frames,
        notes=masks.notes,
        doubts=masks.doubts,
        nothing=masks.nothing,
        source_bytes=clip.source_bytes,
        recovered_share=round(holes.recovered_share, 4),
        masks=masks.file if masks.masked_frames else None,
        recovered=holes.recovered,
        holes=None if holes.is_empty else holes.file,
        selection=masks.selection,
        protected=masks.protected,
    )
