"""The steps of one clip, in order: prepare (probe, shots, masks, plan), build VCUs, generate, stitch.

This module is the sentence that the whole system reads as; `batch.py` runs it on a cluster, one step a unit. Each step
looks into the ledger first and commits to it last, so that a step which ran is never run again.
"""

from __future__ import annotations

import contextlib
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vace_batch import storage, tasks
from vace_batch.ahead import ReadAhead
from vace_batch.clipmasks import Search, dilate_at_model_scale, frame_range_of, local_file, make_masks, parts_of
from vace_batch.controls import MEASURED
from vace_batch.errors import ClipError, ClusterError
from vace_batch.footage import control_videos, measure_shots, model_mask, staged_frames, with_recovered
from vace_batch.generation import generate as generate
from vace_batch.geometry import Box
from vace_batch.intake import admit, check_bytes, check_refusal
from vace_batch.job import Job
from vace_batch.masks.source import MaskModels, check_names, has_mask_source
from vace_batch.masks.store import MaskReader, write_masks
from vace_batch.nodecache import open_copy
from vace_batch.patches import PatchReader
from vace_batch.plan import Shot, Window, plan_clip
from vace_batch.predict import windows_cost
from vace_batch.recovery import Footage, known_digest, recover_clip
from vace_batch.results import Ledger, Record
from vace_batch.stage import Stage, known_context, new_frames, stage_of, staged_shots
from vace_batch.steady import Calm, Still, paint_once
from vace_batch.stitch import RegionPatches, resize, stitch_frame
from vace_batch.vcu import VCU
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.frame import Frame
from vace_batch.video.probe import probe
from vace_batch.video.read import frames_from_bytes, read_image
from vace_batch.video.shots import Scan, scan
from vace_batch.video.write import WriteReport, check_output, rewrite
from vace_batch.work import CLIP_PLAN, FILES, PlannedWindow
from vace_batch.work import ClipPlan as ClipPlan
from vace_batch.work import ClipWork as ClipWork

# --- prepare ---------------------------------------------------------------------------------------------------------


def prepare(work: ClipWork, models: MaskModels) -> ClipPlan:
    """Probe, find shots, make masks, recover background, plan windows. The plan is in the ledger's record.

    Raises:
        ClipError: the video, the masks or the request cannot be used.
    """
    ledger = Ledger(work.out)
    while (record := ledger.done(work.prep_key)) is None:
        with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
            plan = survey(work, models, Path(folder))
            files = {name: file for name in FILES if (file := getattr(plan, name)) is not None}
            published = {file: _published(ledger, work, file) for file in dict.fromkeys(files.values())}
            names: dict[str, Any] = {name: published[file] for name, file in files.items()}
            plan = replace(plan, **names)
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
    files = {name: str(folder / f"{name}.parquet") for name in FILES}
    with work.source() as path:
        info, source_bytes = probe(path, work.options.media), storage.num_bytes(path)
        stage = stage_of(work.job, info.size, info.average_rate)
        check_output(info, work.output, EncoderSettings(crf=work.options.crf), stage.canvas)  # before the GPU work
        found = scan(path, work.options.media)
        shots = staged_shots(found.cuts, found.num_frames, stage)
        frame_range = frame_range_of(work.job, found, info.time_base)
        new = new_frames(work.job, stage, found.num_frames, frame_range)
        search = Search(work.job, path, info.size, found, frame_range, models if look else None, work.fingerprints)
        masked, guarded = make_masks(search, stage, new, files["masks"], files["protected"])
        guard = files["protected"] if guarded else None
        if work.job.dilate and work.job.dilate.tokens and masked.boxes:
            masked = dilate_at_model_scale(masked, files["masks"], guard, work.job.dilate.tokens, shots, work.limits)
        selects = work.job.masks_select and has_mask_source(work.job)
        if selects:
            with search.masks() as selection:
                write_masks(files["selection"], info.size, selection)
        scales = measure_shots(work.job, path, shots, found.pts, work.control_models) if look else ()
        left, share, calm = masked, 0.0, Calm()
        if masked.boxes and look and work.job.task == "removal" and work.job.background == "auto":
            clip = Footage(path=path, size=info.size, pts=found.pts, masks=files["masks"])
            left, share, calm = recover_clip(clip, shots, files["recovered"], files["holes"], work.job, work.limits)
    holes = MaskReader(files["holes"] if share else files["masks"])
    recovered = PatchReader(files["recovered"]) if share else None
    num_frames = found.num_frames + stage.before + stage.after
    parts = parts_of(holes, num_frames)
    if new:  # their window shows what is known round them
        for index in chain(*known_context(work.job, new, shots, work.limits)):
            parts[index] = (Box(0, 0, stage.size.width, stage.size.height),)
    regions, cut = plan_clip(parts, shots, stage.size, work.limits)
    stills, regions, cut = paint_once(calm, parts, regions, cut, work.limits)
    used = {"selection": selects, "protected": guarded}
    said = [holes, *(MaskReader(files[name]) for name in used if used[name])]
    known = [known_digest(said, recovered, new, window) for window in cut]
    windows = tuple(
        _planned(work.job, window, shots[regions[window.region].shot], found, stage, digest)
        for window, digest in zip(cut, known, strict=True)
    )
    return ClipPlan(
        size=stage.size,
        num_frames=num_frames,
        stage=stage,
        new=(new.start, new.stop),
        scales=scales,
        selection=files["selection"] if selects else None,
        protected=guard,
        shots=shots,
        regions=regions,
        windows=windows,
        stills=stills,
        masked_frames=len(masked.boxes),
        words=tuple(search.notes.words),
        source_bytes=source_bytes,
        recovered_share=round(share, 4),
        masks=files["masks"] if masked.boxes else None,
        recovered=files["recovered"] if share else None,
        holes=(files["holes"] if share else files["masks"]) if left.boxes else None,
    )


def _check(work: ClipWork, models: MaskModels | None) -> None:
    """What may be known before the video is opened; class names only by `models`."""
    admit(work.job, work.roots, work.options)
    check_refusal(work.fingerprints)
    check_bytes(work.job, work.options.media)
    if models is not None:
        check_names(work.job, models)


def _planned(job: Job, window: Window, shot: Shot, found: Scan, stage: Stage, known_digest: str) -> PlannedWindow:
    first = min(max(window.start - stage.before, 0), found.num_frames - 1)
    by_shot = job.seed_scope == "shot" or any(name in MEASURED for name in job.controls)
    leads = "flow" in job.controls and window.start > shot.start
    return PlannedWindow(
        window=window,
        start_pts=int(found.pts[first]),
        known_digest=known_digest,
        shot=(shot.start, shot.stop) if by_shot else None,
        lead_pts=int(found.pts[first - 1]) if leads else None,
    )


# --- build -----------------------------------------------------------------------------------------------------------


def build(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> VCU:
    """The VCU of one window: frames and masks of its crop at model size, references on their canvas.

    Raises:
        ClipError: a reference cannot be read.
    """
    admit(work.job, work.roots, work.options)  # a link may lead elsewhere by now
    window, region = planned.window, plan.regions[planned.window.region]
    with _files(work, plan) as files:
        masks = MaskReader(files["holes"]).get(window.start, window.stop)
        selection = MaskReader(files["selection"]).get(window.start, window.stop) if plan.selection else {}
        guards = MaskReader(files["protected"]).get(window.start, window.stop) if plan.protected else {}
        patches = PatchReader(files["recovered"]).get(window.start, window.stop) if plan.recovered else {}
    with work.source() as path:
        frames = [
            resize(with_recovered(pixels, window.box, patches.get(index)), region.size)
            for index, pixels in staged_frames(path, plan.stage, window, plan.span, planned.start_pts)
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


@contextlib.contextmanager
def _files(work: ClipWork, plan: ClipPlan) -> Iterator[dict[str, BinaryIO]]:
    """The plan's files, open; those it does not have are left out."""
    ledger = Ledger(work.out)
    names = {name: getattr(plan, name) for name in FILES}
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(open_copy(ledger.absolute(file)))
            for name, file in names.items()
            if file is not None
        }


# --- stitch ----------------------------------------------------------------------------------------------------------


def stitch(work: ClipWork, plan: ClipPlan, attempt: int = 1) -> Record:
    """Write the finished clip and commit it. A clip without masks is a bit-exact copy of its source, status `skipped`.

    Raises:
        ClipError: the source can no longer be read as it was planned.
    """
    ledger, started = Ledger(work.out), time.monotonic()
    record = ledger.done(work.clip_key)
    if record is not None:
        return record
    admit(work.job, work.roots, work.options)
    output = ledger.absolute(work.output)
    draft = ledger.artifact_uri(work.clip_key, posixpath.splitext(work.output)[1])
    with work.source() as path, storage.staging(output, draft) as target:
        body = _copy(path, target, work) if plan.masks is None else _rewrite(path, target, work, plan, ledger)
    body |= {"job_id": work.job.job_id, "output": work.output, "attempts": attempt}
    body["settings"] = work.settings
    body["predicted_gpu_s"] = round(windows_cost(work, plan, plan.windows)["generate"].gpu_s, 3)
    body["words"] = [*plan.words, *body.get("words", ())]
    body["seconds"] = round(time.monotonic() - started + sum(row["seconds"] for row in body["window_rows"]), 3)
    ledger.commit(work.clip_key, body)
    return ledger.done(work.clip_key) or body


def _copy(source: str, target: str, work: ClipWork) -> Record:
    """A bit-exact copy, or one with bit-exact pictures where the job chose another container that can have them."""
    body: Record = {"status": "skipped", "windows": 0, "window_rows": []}
    info = probe(source, work.options.media)
    if info.container_for(target) == info.container:
        shutil.copyfile(source, target)
        return body | {"reason": "nothing to change was found; the output is a copy"}
    report = rewrite(source, target, lambda _: None, EncoderSettings(crf=work.options.crf), ())
    return body | {
        "reason": "nothing to change was found",
        "words": list(report.words),
        "copied_frames": report.copied_frames,
    }


def _rewrite(source: str, target: str, work: ClipWork, plan: ClipPlan, ledger: Ledger) -> Record:
    records = {planned.window: _window_record(ledger, work, plan, planned) for planned in plan.windows}

    def open_window(window: Window) -> Iterator[NDArray[np.uint8]]:
        record = records[window]
        return frames_from_bytes(storage.read_verified(ledger.absolute(record["artifact"]), record.get("digest")))

    stills: dict[int, list[tuple[Still, Window]]] = {number: [] for number in range(len(plan.regions))}
    for still in plan.stills:
        stills[still.region].append((still, plan.windows[still.window].window))
    patches = [
        RegionPatches(region, [window for window in records if window.region == number], open_window, stills[number])
        for number, region in enumerate(plan.regions)
    ]
    with _files(work, plan) as files:
        masked = frozenset(MaskReader(files["masks"]).boxes())
        holes = ReadAhead(MaskReader(files["holes"]).get) if plan.holes else None
        recovered = ReadAhead(PatchReader(files["recovered"]).get) if plan.recovered else None
        guards = ReadAhead(MaskReader(files["protected"]).get) if plan.protected else None

        def edit(frame: Frame) -> None:
            patch = recovered.at(frame.index) if recovered else None
            hole = holes.at(frame.index) if holes else None
            guard = guards.at(frame.index) if guards else None
            stitch_frame(frame, patch, hole, patches, work.options.feather_px, guard)

        settings = EncoderSettings(crf=work.options.crf)
        report = rewrite(source, target, edit, settings, masked.__contains__, plan.stage.canvas)
    if report.num_frames != plan.num_frames:
        raise ClipError("source_changed", f"expected {plan.num_frames} frames as planned, got {report.num_frames}")
    rows = [_window_row(plan, window, record) for window, record in records.items()]
    return {"status": "done", "reason": None, "windows": len(rows), "window_rows": rows} | _said(report)


def _said(report: WriteReport) -> Record:
    return {"words": list(report.words), "copied_frames": report.copied_frames}


def _window_record(ledger: Ledger, work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> Record:
    record = ledger.done(work.window_key(planned, plan.regions[planned.window.region]))
    if record is None:
        window = planned.window
        raise ClusterError(f"frames {window.start}..{window.stop - 1} of {work.job.job_id} are not there")
    return record


def _window_row(plan: ClipPlan, window: Window, record: Record) -> Record:
    size = plan.regions[window.region].size
    row = {"key": record["key"], "region": window.region, "start": window.start, "stop": window.stop}
    row |= {"num_frames": window.num_frames, "width": size.width, "height": size.height}
    return row | {"seed": record["seed"], "seconds": record["seconds"]}
