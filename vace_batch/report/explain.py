"""Tell one clip's whole story from the ledger: plan, windows, mishaps, verdict and attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.overrides import history_of
from vace_batch.ledger.records import k2
from vace_batch.ledger.run_plan import find_job, read_run
from vace_batch.ledger.schema import JobRow, MishapRecord, QualityRecord, WindowRow
from vace_batch.ledger.summary import summarise
from vace_batch.options import Options
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries

_PLAN = ("num_frames", "masked_frames", "recovered_share", "notes")


class CheckValue(TypedDict):
    """The measured value of a check beside its thresholds; a value that is no check has none."""

    value: float
    review: float | None
    fail: float | None


class Story(TypedDict):
    """The ledger's records of one job; JSON-able."""

    job_id: str
    asked: dict[str, Any]
    overrides: list[dict[str, Any]]
    plan: dict[str, Any] | None
    row: JobRow | None
    windows: list[WindowRow]
    mishaps: list[MishapRecord]
    quality: dict[str, CheckValue] | None


def explain(out: str, job_id: str) -> Story:
    """Collect the ledger's records of a job.

    Raises:
        UsageError: the last run had no such job.
    """
    planned = find_job(out, job_id)
    if planned is None:
        raise UsageError(f"{out}: the last run has no job {job_id!r}")
    ledger = Ledger(out)
    prep = ledger.prep(planned.prep_key)
    clip = ledger.clip(planned.clip_key)
    windows: list[WindowRow] = [] if clip is None else clip.get("window_rows", [])
    keys = [planned.clip_key, planned.prep_key, *(window["key"] for window in windows)]
    return {
        "job_id": job_id,
        "asked": json.loads(planned.row),
        "overrides": history_of(out, job_id),
        "plan": None if prep is None else _plan(prep["plan"]),
        "row": next(iter(summarise(out, [planned]).jobs), None),
        "windows": windows,
        "mishaps": [record for key in keys for record in _mishaps(out, key)],
        "quality": _quality(ledger.quality(planned.clip_key), out),
    }


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: len(plan[name]) for name in ("shots", "regions", "windows")}
    return {name: plan[name] for name in _PLAN} | counts


def _mishaps(out: str, key: str) -> Iterator[MishapRecord]:
    folder = storage.join(out, "ledger", "mishaps", k2(key))
    for entry in list_entries(folder, prefix=key + "."):
        yield storage.read_json(storage.join(folder, entry.name))


def _quality(record: QualityRecord | None, out: str) -> dict[str, CheckValue] | None:
    """Set each measured value beside its thresholds."""
    if record is None:
        return None
    settings = Options.model_validate(read_run(out)["options"]).quality
    quality: dict[str, CheckValue] = {}
    for name in record["checks"]:
        if name in record["metrics"]:
            threshold = settings.threshold(name)
            quality[name] = {
                "value": record["metrics"][name],
                "review": threshold.review,
                "fail": threshold.fail,
            }
    for name, value in record["metrics"].items():
        if "untouched" in name:
            quality[name] = {"value": value, "review": None, "fail": None}
    return quality


def as_lines(story: Story) -> Iterator[str]:
    """Write the story for a person, one line a fact."""
    asked = story["asked"]
    yield f"{story['job_id']}: {asked['task']} of {asked['video_uri']}"
    for override in story["overrides"]:
        values = ", ".join(f"{name}={value}" for name, value in override["set"].items())
        yield f"override  {override['at']}: {values}"
    if story["plan"] is not None:
        yield from _plan_lines(story["plan"])
    for window in story["windows"]:
        size = f"{window['width']}x{window['height']}x{window['num_frames']}"
        frames = f"frames {window['start']}..{window['stop'] - 1}"
        yield f"window    {frames}, {size}, {window['seconds']:.1f} s: {window['key']}"
    for mishap in story["mishaps"]:
        yield f"mishap    {mishap['at']}: {_last_line(mishap)}"
    if story["row"] is None:
        yield "state     not finished"
        return
    yield from _row_lines(story["row"], story["windows"])
    yield from _verdict_lines(story["row"], story["quality"] or {})


def _plan_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    share = f"{plan['recovered_share']:.0%} of their pixels recovered from other frames"
    masked = f"{plan['masked_frames']} frames masked, {share}"
    windows = f"{plan['windows']} windows of {plan['regions']} regions"
    yield f"plan      {plan['num_frames']} frames, {plan['shots']} shots; {masked}; {windows}"
    yield from (f"          {note}" for note in plan["notes"])


def _row_lines(row: JobRow, windows: list[WindowRow]) -> Iterator[str]:
    code = f"{row['error_code']}: " if row["error_code"] else ""
    fault = f": {code}{row['reason']}" if row["reason"] else ""
    yield f"state     {row['status']}{fault}; {row['seconds']:.1f} s, {row['runs']} runs"
    if row["predicted_gpu_s"] is not None:
        real = sum(window["seconds"] for window in windows)
        yield f"GPU       predicted {row['predicted_gpu_s']:.1f} s, real {real:.1f} s"


def _verdict_lines(row: JobRow, quality: Mapping[str, CheckValue]) -> Iterator[str]:
    if row["verdict"] is None:
        return
    yield f"verdict   {row['verdict']}"
    yield from (f"          {reason}" for reason in row["reasons"])
    for name, check in quality.items():
        fail = "" if check["fail"] is None else f", fail from {check['fail']:g}"
        thresholds = "" if check["review"] is None else f" (review from {check['review']:g}{fail})"
        yield f"check     {name} {check['value']:g}{thresholds}"
    if row["attempts"] is None:
        return
    record = json.loads(row["attempts"])
    for number, attempt in enumerate(record["attempts"]):
        outcome = attempt["error"] or "; ".join((attempt["verdict"], *attempt["reasons"]))
        kept = " (kept)" if number == record["chosen"] else ""
        yield f"attempt   {number + 1} {attempt['remedy']}{kept}: {outcome}; {attempt['gpu_s']:.1f} GPU-s"


def _last_line(mishap: MishapRecord) -> str:
    text = str(mishap.get("traceback") or mishap).strip()
    return text.splitlines()[-1]
