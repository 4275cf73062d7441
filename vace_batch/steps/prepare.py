"""The steps of one clip, in order: prepare (probe, shots, masks, plan), build VCUs, generate, stitch.

`batch/graph.py` runs the steps on a cluster, one step a unit. Each step looks into the ledger first and commits to it
last, so that a step which ran is never run again.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from itertools import chain
from pathlib import Path

from vace_batch.background.clip import ClipSource, recover_clip
from vace_batch.background.patches import PatchReader
from vace_batch.geometry import Box
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import Job
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.models import MaskModels, check_names
from vace_batch.masks.store import MaskReader, write_masks
from vace_batch.planning.canvas import canvas_of, canvas_shots, known_context, new_frames
from vace_batch.planning.stills import StillSegments, reuse_stills
from vace_batch.planning.windows import Shot, Window, plan_clip
from vace_batch.steps.admission import admit, check_bytes
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import CLIP_PLAN, FILE_KINDS, ClipPlan, FileKind, PlannedWindow
from vace_batch.steps.digest import known_digest
from vace_batch.steps.masks import dilate_at_model_scale, frame_range_of, make_masks, parts_of
from vace_batch.storage import files as storage
from vace_batch.vcu.controls import MEASURED
from vace_batch.vcu.frames import measure_shots
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.probe import probe
from vace_batch.video.shots import Scan, scan
from vace_batch.video.writer import check_output


def prepare(work: ClipWork, models: MaskModels) -> ClipPlan:
    """Probe, find shots, make masks, recover background, plan windows. The plan is in the ledger's record.

    Raises:
        ClipError: the video, the masks or the request cannot be used.
    """
    ledger = Ledger(work.out)
    while (record := ledger.done(work.prep_key)) is None:
        with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
            plan = survey(work, models, Path(folder))
            # Two kinds may share a file, which is published once.
            published = {file: _published(ledger, work, file) for file in dict.fromkeys(plan.files.values())}
            plan = plan.with_files({kind: published[file] for kind, file in plan.files.items()})
        if not ledger.commit(work.prep_key, {"plan": CLIP_PLAN.dump_python(plan, mode="json")}):
            # Another attempt was first, and its files count.
            for file in published.values():
                storage.delete(ledger.absolute(file))
    return CLIP_PLAN.validate_python(record["plan"])


def _published(ledger: Ledger, work: ClipWork, file: str) -> str:
    """Put a file of the plan into OUT, under a name of this attempt, which is returned."""
    uri = ledger.artifact_uri(work.prep_key, "." + posixpath.basename(file))
    with storage.staging(uri, uri + ".draft") as target:
        shutil.move(file, target)
    return ledger.relative(uri)


def survey(work: ClipWork, models: MaskModels, folder: Path, *, look: bool = True) -> ClipPlan:
    """The plan of a clip, its files in the local `folder`.

    `look` False does not run detector and segmenter: where they would be asked, the whole frame counts as masked.

    Raises:
        ClipError: as `prepare`.
    """
    _check(work, models if look else None)
    files = {name: str(folder / f"{name}.parquet") for name in FILE_KINDS}
    with work.source() as path:
        info, source_bytes = probe(path, work.options.media), storage.num_bytes(path)
        canvas = canvas_of(work.job, info.size, info.average_rate)
        settings = EncoderSettings(crf=work.options.crf)
        check_output(info, work.output, settings, canvas.if_grown)  # before the GPU work
        found = scan(path, work.options.media)
        shots = canvas_shots(found.cuts, found.num_frames, canvas)
        frame_range = frame_range_of(work.job, found, info.time_base)
        new = new_frames(work.job, canvas, found.num_frames, frame_range)
        request = MaskRequest(
            job=work.job,
            path=path,
            size=info.size,
            scan=found,
            frame_range=frame_range,
            models=models if look else None,
            fingerprints=work.fingerprints,
        )
        masked, guarded = make_masks(request, canvas, new, files["masks"], files["protected"])
        guard = files["protected"] if guarded else None
        if work.job.dilate and work.job.dilate.tokens and masked.boxes:
            masked = dilate_at_model_scale(masked, files["masks"], guard, work.job.dilate.tokens, shots, work.limits)
        selects = work.job.masks_select and work.job.has_mask_source
        if selects:
            write_masks(files["selection"], info.size, clip_masks(request))
        scales = measure_shots(work.job, path, shots, found.pts, work.control_models) if look else ()
        left, share, stillness = masked, 0.0, StillSegments()
        if masked.boxes and look and work.job.task == "removal" and work.job.background == "auto":
            clip = ClipSource(path=path, size=info.size, pts=found.pts, masks=files["masks"])
            left, share, stillness = recover_clip(
                clip, shots, files["recovered"], files["holes"], work.job, work.limits
            )
    holes = MaskReader(files["holes"] if share else files["masks"])
    recovered = PatchReader(files["recovered"]) if share else None
    num_frames = found.num_frames + canvas.before + canvas.after
    parts = parts_of(holes, num_frames)
    if new:  # their window shows what is known round them
        for index in chain(*known_context(work.job, new, shots, work.limits)):
            parts[index] = (Box(0, 0, canvas.size.width, canvas.size.height),)
    regions, cut = plan_clip(parts, shots, canvas.size, work.limits)
    stills, regions, cut = reuse_stills(stillness, parts, regions, cut, work.limits)
    used: dict[FileKind, bool] = {"selection": selects, "protected": guarded}
    said = [holes, *(MaskReader(files[name]) for name in used if used[name])]
    known = [known_digest(said, recovered, new, window) for window in cut]
    windows = tuple(
        _planned(work.job, window, shots[regions[window.region].shot], found, canvas, digest)
        for window, digest in zip(cut, known, strict=True)
    )
    return ClipPlan(
        size=canvas.size,
        num_frames=num_frames,
        canvas=canvas,
        new=(new.start, new.stop),
        scales=scales,
        selection=files["selection"] if selects else None,
        protected=guard,
        shots=shots,
        regions=regions,
        windows=windows,
        stills=stills,
        masked_frames=len(masked.boxes),
        notes=tuple(request.notes.notes),
        source_bytes=source_bytes,
        recovered_share=round(share, 4),
        masks=files["masks"] if masked.boxes else None,
        recovered=files["recovered"] if share else None,
        holes=(files["holes"] if share else files["masks"]) if left.boxes else None,
    )


def _check(work: ClipWork, models: MaskModels | None) -> None:
    """What may be known before the video is opened; class names only by `models`."""
    if work.refused is not None:
        raise work.refused
    admit(work.job, work.roots, work.options)  # before the sizes of its files are asked
    check_bytes(work.job, work.options.media)
    if models is not None:
        check_names(work.job, models)


def _planned(job: Job, window: Window, shot: Shot, found: Scan, canvas: Canvas, known_digest: str) -> PlannedWindow:
    first = min(max(window.start - canvas.before, 0), found.num_frames - 1)
    by_shot = job.seed_scope == "shot" or any(name in MEASURED for name in job.controls)
    leads = "flow" in job.controls and window.start > shot.start
    return PlannedWindow(
        window=window,
        start_pts=int(found.pts[first]),
        known_digest=known_digest,
        shot=(shot.start, shot.stop) if by_shot else None,
        lead_pts=int(found.pts[first - 1]) if leads else None,
    )
