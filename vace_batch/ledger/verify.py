"""Check a whole output folder: finished videos, artifacts and results against their records, and stray videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.ledger.garbage import artifacts_in
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.outputs import Outputs
from vace_batch.ledger.results import STATUSES
from vace_batch.ledger.run_plan import PlannedJob, read_plan
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage
from vace_batch.storage.listing import find_entry

_READ_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of an output folder; `job_id` where a row of the last run is concerned."""

    place: str
    problem: str
    job_id: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The problem as JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        return self.problem if self.job_id is None else f"{self.job_id}: {self.problem}"


def verify(out: str) -> Iterator[Problem]:
    """Check an output folder and change nothing; every finished video and every artifact is read in full.

    Raises:
        UsageError: `out` is no output folder.
    """
    jobs = read_plan(out)
    outputs = Outputs(out)
    yield from _planned_outputs(outputs, jobs)
    yield from _other_outputs(out, outputs, jobs)
    for key, problem in artifact_problems(out):
        yield Problem(place=key, problem=problem)
    yield from _results(out)
    yield from _strays(outputs, jobs)


def artifact_problems(out: str) -> Iterator[tuple[str, str]]:
    """Read the artifacts of all prepared clips and windows; returns the key and problem of each that is not whole."""
    ledger = Ledger(out)
    keys = [key for kind in ("prep", "window") for key in sorted(ledger.keys("done", kind))]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        for key, problem in zip(keys, pool.map(lambda key: artifact_problem(ledger, key), keys), strict=True):
            if problem is not None:
                yield key, problem


def artifact_problem(ledger: Ledger, key: str) -> str | None:
    """Compare the artifacts of a prepared clip or a window with its record; returns the first difference, or None."""
    record = ledger.done(key)
    for name in artifacts_in(record):
        if find_entry(ledger.absolute(name)) is None:
            return f"{name} is missing ({key})"
        digest = None if record is None else record.get("digest")
        if digest is not None and storage.digest(storage.read_bytes(ledger.absolute(name))) != digest:
            return f"{name} is not what was written ({key})"
    return None


def _planned_outputs(outputs: Outputs, jobs: Iterable[PlannedJob]) -> Iterator[Problem]:
    done = [job for job in jobs if outputs.is_done(job.clip_key)]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        problems = pool.map(lambda job: outputs.problem(job.clip_key, job.output, whole=True), done)
        for job, problem in zip(done, problems, strict=True):
            if problem is not None:
                yield Problem(place=job.output, problem=problem, job_id=job.job_id)


def _other_outputs(out: str, outputs: Outputs, jobs: Iterable[PlannedJob]) -> Iterator[Problem]:
    """Check videos of records that the last run did not plan: attempts, and rows of other manifests or settings.

    Several settings of a row have one name, of which the last that was made is there: one record must agree.
    """
    planned = {job.output for job in jobs}
    problems: dict[str, list[str | None]] = {}
    for key, name in outputs.recorded.items():
        if name is not None and name not in planned:
            problems.setdefault(name, []).append(outputs.problem(key, name, whole=True))
    for name, several in problems.items():
        if None not in several:
            yield Problem(place=name, problem=f"{several[0]}")


def _results(out: str) -> Iterator[Problem]:
    """Compare the rows of the results with the records."""
    written = {row["job_id"]: row for row in _result_rows(out)}
    for job in summarise(out).jobs:
        row = written.pop(job["job_id"], None)
        place = f"results/status={job['status']}"
        if row is None:
            yield Problem(place=place, problem=f"{place} lacks the row", job_id=job["job_id"])
            continue
        for name in ("status", "clip_key", "finished_at", "verdict"):
            if row[name] != job[name]:
                problem = f"results have {name} {row[name]}, the record has {job[name]}"
                yield Problem(place=place, problem=problem, job_id=job["job_id"])
                break
    for job_id, row in written.items():
        if row["status"] != "pending":
            problem = f"results have status {row['status']}, and no record says so"
            yield Problem(place=f"results/status={row['status']}", problem=problem, job_id=job_id)


def _result_rows(out: str) -> Iterator[dict[str, Any]]:
    columns = ["job_id", "clip_key", "finished_at", "verdict"]
    for status in STATUSES:
        try:
            data = storage.read_bytes(storage.join(out, "results", f"status={status}", "clips.parquet"))
        except FileNotFoundError:
            continue
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)
        yield from ({**row, "status": status} for row in table.to_pylist())


def _strays(outputs: Outputs, jobs: Iterable[PlannedJob]) -> Iterator[Problem]:
    """List videos that no record of finished work names."""
    named = {job.output for job in jobs if outputs.is_done(job.clip_key)} | set(outputs.recorded.values())
    for name in sorted(outputs.files):
        if name.startswith("videos/") and name not in named:
            yield Problem(place=name, problem=f"{name} belongs to no finished clip")
