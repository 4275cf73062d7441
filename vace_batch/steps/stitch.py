"""Stitch a clip: write the finished video from source and generated frames, and commit its record."""

from __future__ import annotations

import posixpath
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import ClipError, ClusterError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.outputs import output_problem, seal_file, seal_in, settle
from vace_batch.ledger.schema import ClipRecord, WindowRecord, WindowRow
from vace_batch.planning.windows import Window
from vace_batch.steps.clip import MADE_AGAIN, ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.steps.prediction import windows_cost
from vace_batch.steps.select_best import own_video
from vace_batch.stitch.paste import stitch_frame
from vace_batch.stitch.regions import RegionPatches
from vace_batch.storage import files as storage
from vace_batch.storage.listing import find_entry
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.frame import Frame
from vace_batch.video.probe import probe
from vace_batch.video.read_ahead import ReadAhead
from vace_batch.video.reader import frames_from_bytes
from vace_batch.video.writer import WriteReport, rewrite


def stitch(work: ClipWork, plan: ClipPlan, attempt: int = 1) -> ClipRecord:
    """Write the finished clip and commit its record.

    A clip without masks becomes a bit-exact copy of its source, with status `skipped` and the plan's reason. A
    finished clip whose video is missing or another is made again, and its notes say so.

    Raises:
        ClipError: the source can no longer be read as it was planned, or another run writes the same output.
        ClusterError: a window's record is missing.
    """
    started = time.monotonic()
    ledger = Ledger(work.out)
    record = ledger.clip(work.clip_key)
    problem = work.problem
    if record is not None:
        name = own_video(work, ledger)
        problem = output_problem(ledger.absolute(name), name, seal_in(record))
        if problem is None:
            return record
    output = ledger.absolute(work.output)
    draft = ledger.artifact_uri(work.clip_key, posixpath.splitext(work.output)[1])
    with work.source() as path, storage.staging(output, draft) as target:
        body = _copy(path, target, work, plan) if plan.masks is None else _rewrite(path, target, work, plan, ledger)
        body.update(cast(ClipRecord, seal_file(target)))
    entry = find_entry(output)
    body["output_version"] = "" if entry is None else entry.version
    body["job_id"] = work.job.job_id
    body["output"] = work.output
    body["runs"] = attempt
    body["settings"] = work.settings
    body["predicted_gpu_s"] = round(windows_cost(work, plan, plan.windows)["generate"].gpu_s, 3)
    body["notes"] = [*plan.notes, *body.get("notes", ()), *([] if problem is None else [MADE_AGAIN + problem])]
    body["seconds"] = round(time.monotonic() - started + sum(row["seconds"] for row in body["window_rows"]), 3)
    if replaced := settle(ledger, work.clip_key, work.output, body, replace=record is not None):
        raise ClipError("output_replaced", f"{replaced}; another run writes the same output", retryable=True)
    return ledger.clip(work.clip_key) or body


def _copy(source: str, target: str, work: ClipWork, plan: ClipPlan) -> ClipRecord:
    """Copy the source bit by bit, or its pictures bit by bit if the job chose another container that can hold them."""
    reason = plan.nothing or "nothing to change was found"
    body: ClipRecord = {"status": "skipped", "windows": 0, "window_rows": [], "reason": reason}
    info = probe(source, work.options.media)
    if info.container_for(target) == info.container:
        shutil.copyfile(source, target)
        return {**body, "reason": f"{reason}; the output is a copy"}
    report = rewrite(source, target, lambda _: None, EncoderSettings(crf=work.options.crf), ())
    return {**body, **_notes(report)}


def _rewrite(source: str, target: str, work: ClipWork, plan: ClipPlan, ledger: Ledger) -> ClipRecord:
    records = {planned.window: _window_record(ledger, work, plan, planned) for planned in plan.windows}
    patches = _region_patches(plan, records, ledger)
    with plan.open_files(ledger) as files:
        masks = files.mask_reader("masks")
        masked = frozenset(masks.boxes() if masks is not None else ())
        holes = ReadAhead(partial(files.masks, "holes"))
        protected = ReadAhead(partial(files.masks, "protected"))
        recovered = ReadAhead(files.patches)

        def edit(frame: Frame) -> None:
            index = frame.index
            feather_px = work.options.feather_px
            stitch_frame(frame, recovered.at(index), holes.at(index), patches, feather_px, protected.at(index))

        settings = EncoderSettings(crf=work.options.crf)
        report = rewrite(source, target, edit, settings, masked.__contains__, plan.canvas.if_grown)
    if report.num_frames != plan.num_frames:
        reason = f"the video had {plan.num_frames} frames when the run was planned, and has {report.num_frames} now"
        raise ClipError("source_changed", reason)
    rows = [_window_row(plan, window, record) for window, record in records.items()]
    return {"status": "done", "reason": None, "windows": len(rows), "window_rows": rows, **_notes(report)}


def _region_patches(plan: ClipPlan, records: Mapping[Window, WindowRecord], ledger: Ledger) -> list[RegionPatches]:
    """Collect the generated frames of each region: its windows, and the still pictures made of them."""

    def open_window(window: Window) -> Iterator[NDArray[np.uint8]]:
        record = records[window]
        return frames_from_bytes(storage.read_verified(ledger.absolute(record["artifact"]), record.get("digest")))

    patches = []
    for number, region in enumerate(plan.regions):
        windows = [window for window in records if window.region == number]
        stills = [(still, plan.windows[still.window].window) for still in plan.stills if still.region == number]
        patches.append(RegionPatches(region, windows, open_window, stills))
    return patches


def _notes(report: WriteReport) -> ClipRecord:
    return {"notes": list(report.notes), "copied_frames": report.copied_frames}


def _window_record(ledger: Ledger, work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> WindowRecord:
    record = ledger.window(work.window_key(planned, plan.region_of(planned)))
    if record is None:
        window = planned.window
        raise ClusterError(f"frames {window.start}..{window.stop - 1} of {work.job.job_id} have no record")
    return record


def _window_row(plan: ClipPlan, window: Window, record: WindowRecord) -> WindowRow:
    size = plan.regions[window.region].size
    return {
        "key": record["key"],
        "region": window.region,
        "start": window.start,
        "stop": window.stop,
        "num_frames": window.num_frames,
        "width": size.width,
        "height": size.height,
        "seed": record["seed"],
        "seconds": record["seconds"],
    }
