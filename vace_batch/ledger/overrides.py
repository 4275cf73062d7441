"""Run rows with other values than the manifest's: the overrides that `retry --set` records.

Overrides lie in OUT/ledger/overrides, one file a retry, never changed, and hold for every later run into that OUT, so
that a nightly run does not undo a correction. An override applies only while the manifest's row is unchanged; after an
edit the manifest wins.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.ledger.schema import OverrideRecord
from vace_batch.manifest.builder import parse_defaults
from vace_batch.manifest.cells import PARSERS, Cell
from vace_batch.manifest.job import Job, members
from vace_batch.manifest.rules import row_faults
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files

FIXED = ("job_id", "video_uri", "task", "output_uri")
"""Columns that say which row it is; another value would make another row."""

_DEFAULTS = Job(job_id="", video_uri="", task="removal")


def parse_overrides(assignments: Sequence[str]) -> dict[str, object]:
    """Parse `column=value` texts, values as in a CSV; `column=` takes the manifest's value away.

    Raises:
        UsageError: a text names no column, or a `FIXED` one, or its value does not fit the column.
    """
    fixed = sorted({text.partition("=")[0] for text in assignments} & set(FIXED))
    if fixed:
        raise UsageError(f"--set: a retry cannot change {', '.join(FIXED)}, got {', '.join(fixed)}")
    emptied = {text.removesuffix("="): None for text in assignments if text.endswith("=") and text.count("=") == 1}
    unknown = sorted(set(emptied) - set(PARSERS))
    if unknown:
        raise UsageError(f"--set: expected a column of the manifest, got {', '.join(unknown)}")
    return emptied | parse_defaults([text for text in assignments if text.removesuffix("=") not in emptied])


def with_values(job: Job, values: Mapping[str, object], folder: str) -> Job:
    """Replace some columns of `job`; relative URIs among the values are below `folder`.

    Raises:
        ManifestError: with everything that is wrong with the changed row.
    """
    faults: list[Fault] = []
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        cell = Cell(name, folder)
        parsed[name] = getattr(_DEFAULTS, name) if value is None else PARSERS[name](value, cell)
        faults += cell.faults
    changed = replace(job, **parsed)
    if not faults:
        faults += row_faults({name: getattr(changed, name) for name in PARSERS})
    if faults:
        raise ManifestError([fault.of_row(job.row, job.job_id) for fault in faults])
    return changed


def record_overrides(out: str, jobs: Iterable[Job], values: Mapping[str, object]) -> None:
    """Record that these rows, as the manifest has them, get `values` in later runs into OUT; older overrides stay.

    Raises:
        OSError: OUT cannot be written.
    """
    at = datetime.now(UTC)
    body: OverrideRecord = {
        "at": at.isoformat(timespec="milliseconds"),
        "set": dict(values),
        "rows": {job.job_id: _row_digest(job) for job in jobs},
    }
    name = f"{at:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    storage.create_exclusive(storage.join(_folder(out), name), json.dumps(body, sort_keys=True).encode())


def apply_overrides(jobs: Sequence[Job], out: str, folder: str) -> tuple[Job, ...]:
    """Apply the overrides of OUT to the rows of a manifest in `folder`.

    Raises:
        ManifestError: the manifest's rules no longer allow a value.
        OSError: a storage does not answer.
    """
    recorded = _recorded(out)
    if not recorded:
        return tuple(jobs)
    overrides = ((job, overrides_of(job, recorded)) for job in jobs)
    return tuple(with_values(job, values, folder) if values else job for job, values in overrides)


def overrides_of(job: Job, recorded: Sequence[OverrideRecord]) -> dict[str, object]:
    """Select the values that hold for a row of the manifest, the latest of each column."""
    values: dict[str, object] = {}
    digest = None
    for record in recorded:
        if job.job_id in record["rows"]:
            digest = digest or _row_digest(job)
            values |= record["set"] if record["rows"][job.job_id] == digest else {}
    return values


def history_of(out: str, job_id: str) -> list[dict[str, Any]]:
    """List the overrides of a job with their times, the earliest first."""
    return [{"at": record["at"], "set": record["set"]} for record in _recorded(out) if job_id in record["rows"]]


def _recorded(out: str) -> list[OverrideRecord]:
    folder = _folder(out)
    return [storage.read_json(storage.join(folder, name)) for name in list_files(folder)]


def _folder(out: str) -> str:
    return storage.join(out, "ledger", "overrides")


def _row_digest(job: Job) -> str:
    """Digest the row as the manifest has it, wherever in the manifest the row stands."""
    values = {name: value for name, value in members(job).items() if name != "row"}
    return storage.digest(json.dumps(values, default=members, sort_keys=True))
