"""Rows that are run with other values than the manifest's, because `retry` was told so.

A change is kept in OUT/ledger/changes, a file a retry, never written again, and holds for every later run into that
OUT: what was mended by hand is not undone by the nightly run. It holds for the row as it was: a row that is changed in
the manifest itself is what the manifest says.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.manifest.builder import parse_defaults
from vace_batch.manifest.cells import PARSERS, Cell
from vace_batch.manifest.job import Job, members
from vace_batch.manifest.rules import row_faults
from vace_batch.storage import files as storage

FIXED = ("job_id", "video_uri", "task", "output_uri")
"""Columns that say which row it is; with others it would be another one."""

_DEFAULTS = Job(job_id="", video_uri="", task="removal")


def parse_changes(assignments: Sequence[str]) -> dict[str, object]:
    """`column=value` texts, values as in a CSV; nothing after the `=` takes the manifest's value away.

    Raises:
        UsageError: one names no column, or one that says which row it is, or its value cannot stand there.
    """
    fixed = sorted({text.partition("=")[0] for text in assignments} & set(FIXED))
    if fixed:
        raise UsageError(f"--set: a retry leaves {', '.join(FIXED)} as they are, got {', '.join(fixed)}")
    emptied = {text.removesuffix("="): None for text in assignments if text.endswith("=") and text.count("=") == 1}
    unknown = sorted(set(emptied) - set(PARSERS))
    if unknown:
        raise UsageError(f"--set: expected a column of the manifest, got {', '.join(unknown)}")
    return emptied | parse_defaults([text for text in assignments if text.removesuffix("=") not in emptied])


def with_values(job: Job, values: Mapping[str, object], folder: str) -> Job:
    """`job` with other values in some columns; relative URIs among them are below `folder`.

    Raises:
        ManifestError: with everything that is wrong with the row then.
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


def record_changes(out: str, jobs: Iterable[Job], values: Mapping[str, object]) -> None:
    """From now on these rows, as the manifest has them, have other values in runs into OUT; other values stay.

    Raises:
        OSError: OUT cannot be written.
    """
    at = datetime.now(UTC)
    body = {"at": at.isoformat(timespec="milliseconds"), "set": dict(values), "rows": {j.job_id: _row(j) for j in jobs}}
    name = f"{at:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    storage.create_exclusive(storage.join(_folder(out), name), json.dumps(body, sort_keys=True).encode())


def with_changes(jobs: Sequence[Job], out: str, folder: str) -> tuple[Job, ...]:
    """The rows of a manifest in `folder` as runs into OUT take them.

    Raises:
        ManifestError: the manifest's version of today does not allow a value any more.
        OSError: a storage does not answer.
    """
    recorded = _recorded(out)
    if not recorded:
        return tuple(jobs)
    return tuple(with_values(job, values, folder) if (values := changes_of(job, recorded)) else job for job in jobs)


def changes_of(job: Job, recorded: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """The values that were changed of a row of the manifest, the latest of each column."""
    found: dict[str, object] = {}
    row = None
    for change in recorded:
        if job.job_id in change["rows"]:
            row = row or _row(job)
            found |= change["set"] if change["rows"][job.job_id] == row else {}
    return found


def named(out: str, job_id: str) -> list[dict[str, Any]]:
    """When a job was changed and to what, the earliest first."""
    return [{"at": change["at"], "set": change["set"]} for change in _recorded(out) if job_id in change["rows"]]


def _recorded(out: str) -> list[dict[str, Any]]:
    folder = _folder(out)
    return [storage.read_json(storage.join(folder, name)) for name in storage.list_files(folder)]


def _folder(out: str) -> str:
    return storage.join(out, "ledger", "changes")


def _row(job: Job) -> str:
    """A digest of the row as the manifest has it, wherever in the manifest it stands."""
    values = {name: value for name, value in members(job).items() if name != "row"}
    return storage.digest(json.dumps(values, default=members, sort_keys=True))
