"""One clip's whole story, from the ledger alone: what was planned, made, measured, tried again, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.overrides import named
from vace_batch.ledger.records import Record, k2
from vace_batch.ledger.run_plan import find_job, read_run
from vace_batch.ledger.summary import summarise
from vace_batch.ledger.verdicts import quality_key
from vace_batch.options import Options
from vace_batch.storage import files as storage

_PLAN = ("num_frames", "masked_frames", "recovered_share", "notes")


def explain(out: str, job_id: str) -> Record:
    """What the ledger of OUT has of a job, as one JSON-able value.

    Raises:
        UsageError: the last run had no such job.
    """
    planned = find_job(out, job_id)
    if planned is None:
        raise UsageError(f"{out}: the last run has no job {job_id!r}")
    ledger = Ledger(out)
    prep = (ledger.done(planned.prep_key) or {}).get("plan")
    row = next(iter(summarise(out, [planned]).jobs), None)
    clip = ledger.done(planned.clip_key) or ledger.failed(planned.clip_key) or {}
    windows = clip.get("window_rows", [])
    keys = [planned.clip_key, planned.prep_key, *(window["key"] for window in windows)]
    return {
        "job_id": job_id,
        "asked": json.loads(planned.row),
        "changed": named(out, job_id),
        "plan": None if prep is None else _plan(prep),
        "row": row,
        "windows": windows,
        "mishaps": [record for key in keys for record in _mishaps(out, key)],
        "quality": _quality(ledger.done(quality_key(planned.clip_key)), out),
    }


def _plan(prep: Mapping[str, Any]) -> Record:
    counts = {name: len(prep[name]) for name in ("shots", "regions", "windows")}
    return {name: prep[name] for name in _PLAN} | counts


def _mishaps(out: str, key: str) -> Iterator[Record]:
    folder = storage.join(out, "ledger", "mishaps", k2(key))
    for entry in storage.list_entries(folder, prefix=key + "."):
        yield storage.read_json(storage.join(folder, entry.name))


def _quality(record: Mapping[str, Any] | None, out: str) -> Record | None:
    """Numbers beside their thresholds."""
    if record is None:
        return None
    settings = Options.model_validate(read_run(out)["options"]).quality
    metrics = record["metrics"]
    return {
        name: {"value": metrics[name], **settings.threshold(name).model_dump()}
        for name in record["checks"]
        if name in metrics
    }


def as_lines(story: Mapping[str, Any]) -> Iterator[str]:
    """The story as a person reads it."""
    asked, plan, row = story["asked"], story["plan"], story["row"]
    yield f"{story['job_id']}: {asked['task']} of {asked['video_uri']}"
    for change in story["changed"]:
        yield f"changed   {change['at']}: {', '.join(f'{name}={value}' for name, value in change['set'].items())}"
    if plan is not None:
        masked = f"{plan['masked_frames']} frames masked, {plan['recovered_share']:.0%} of that seen elsewhere"
        windows = f"{plan['windows']} windows of {plan['regions']} regions"
        yield f"plan      {plan['num_frames']} frames, {plan['shots']} shots; {masked}; {windows}"
        yield from (f"          {note}" for note in plan["notes"])
    for window in story["windows"]:
        size = f"{window['width']}x{window['height']}x{window['num_frames']}"
        frames = f"frames {window['start']}..{window['stop'] - 1}"
        yield f"window    {frames}, {size}, {window['seconds']:.1f} s: {window['key']}"
    for mishap in story["mishaps"]:
        yield f"mishap    {mishap['at']}: {_last_line(mishap)}"
    if row is None:
        yield "state     not finished"
        return
    said = f": {row['error_code']}: {row['reason']}" if row["error_code"] else ""
    yield f"state     {row['status']}{said}; {row['seconds']:.1f} s, {row['runs']} runs"
    if row["predicted_gpu_s"] is not None:
        real = sum(window["seconds"] for window in story["windows"])
        yield f"GPU       predicted {row['predicted_gpu_s']:.1f} s, real {real:.1f} s"
    yield from _judged(row, story["quality"] or {})


def _judged(row: Record, quality: Mapping[str, Record]) -> Iterator[str]:
    if row["verdict"] is None:
        return
    yield f"verdict   {row['verdict']}"
    yield from (f"          {reason}" for reason in row["reasons"])
    for name, check in quality.items():
        fail = "" if check["fail"] is None else f", fail from {check['fail']:g}"
        yield f"check     {name} {check['value']:g} (review from {check['review']:g}{fail})"
    attempts = json.loads(row["attempts"]) if row["attempts"] else {"attempts": []}
    for number, attempt in enumerate(attempts["attempts"]):
        came = attempt["error"] or "; ".join((attempt["verdict"], *attempt["reasons"]))
        kept = " (kept)" if number == attempts["chosen"] else ""
        yield f"attempt   {number + 1} {attempt['remedy']}{kept}: {came}; {attempt['gpu_s']:.1f} GPU-s"


def _last_line(mishap: Mapping[str, Any]) -> str:
    text = str(mishap.get("reason") or mishap.get("traceback") or mishap).strip()
    return text.splitlines()[-1]
