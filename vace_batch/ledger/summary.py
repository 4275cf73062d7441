"""Sum up a run from its ledger: counters that add up, and a row for each job."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.records import BRIEF, COMPACT_FROM, read_tables
from vace_batch.ledger.run_plan import PLAN_SCHEMA, ROWS_AT_ONCE, PlannedJob, find_run, plan_table
from vace_batch.ledger.schema import SCHEMA_KEY, SCHEMA_VERSION, JobRow, VerdictRow
from vace_batch.ledger.usage import read_usage
from vace_batch.ledger.verdicts import Verdicts, no_verdict
from vace_batch.options import Options

SHOWN = (
    "job_id",
    "status",
    "output_uri",
    "error_code",
    "reason",
    "runs",
    "windows",
    "seconds",
    "verdict",
    "reasons",
)
"""The columns of a job in the JSON of `run` and `status`."""

_JOB = ("job_id", "clip_key", "output")
_PLAN_JOB = pa.schema([PLAN_SCHEMA.field(name) for name in _JOB])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counters and ended jobs; planned = done + failed + skipped + pending, always.

    `stopped` is why a budget let no further window begin; `left` are then the unfinished jobs, as (job_id, clip_key).
    """

    out: str
    planned: int
    done: int
    failed: int
    skipped: int
    pending: int
    windows: int
    jobs: Sequence[JobRow]
    verdicts: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None
    left: pa.Table | None = None

    def __post_init__(self) -> None:
        if self.planned != self.done + self.failed + self.skipped + self.pending:
            raise AssertionError(f"counters do not add up: {self}")

    @property
    def counters(self) -> dict[str, Any]:
        """All fields but the jobs."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("jobs", "left")}

    def __str__(self) -> str:
        text = f"planned {self.planned} = done {self.done} + failed {self.failed} + skipped {self.skipped}"
        if self.pending:
            text += f" + pending {self.pending}"
        text += f"; windows {self.windows}"
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return f"{text}; verdicts {verdicts}" if verdicts else text

    def of(self, *statuses: str) -> Iterator[JobRow]:
        """Select the jobs with these statuses; `pending` alone are the jobs that a budget left."""
        if statuses == ("pending",):
            return self._pending()
        if isinstance(self.jobs, _Rows):
            return self.jobs.of(statuses)
        return (job for job in self.jobs if job["status"] in statuses)

    def _pending(self) -> Iterator[JobRow]:
        for batch in [] if self.left is None else self.left.to_batches(ROWS_AT_ONCE):
            for job in batch.to_pylist():
                record = {"status": "pending", "error_code": "budget", "reason": self.stopped, "runs": 0}
                yield _job_row(job, record, None, no_verdict())

    def as_json(self) -> Iterator[str]:
        """Write one JSON object in parts: schema version, counters and the `SHOWN` columns of each job."""
        head = {SCHEMA_KEY: SCHEMA_VERSION, **self.counters}
        yield json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1] + ', "jobs": ['
        for number, job in enumerate(itertools.chain(self.jobs, self.of("pending"))):
            shown = {name: value for name, value in job.items() if name in SHOWN}
            yield (", " if number else "") + json.dumps(shown, ensure_ascii=False, allow_nan=False)
        yield "]}"


def summarise(
    out: str, planned: Iterable[PlannedJob] | None = None, *, compact: bool = False, shown_only: bool = False
) -> Summary:
    """Sum up the planned jobs, by default the last run's jobs.

    `compact`, for drivers: copy the records that were read into compact files, so that the next reading is quick.
    `shown_only`: the jobs have the `SHOWN` columns and no more, so that most of each record is not read.

    Raises:
        UsageError: `out` is not an output folder.
    """
    jobs = _planned_table(out, planned)
    records = _clip_records(out, compact=compact, shown_only=shown_only)
    places = pc.index_in(jobs["clip_key"], records["key"].combine_chunks())
    reached = records.select(["status", "windows"]).take(places.drop_null())
    options = _options(out)
    verdicts = Verdicts(out, options.quality, whole=not shown_only, compact=compact)
    ended = jobs.append_column("record", places).filter(pc.is_valid(places))
    ended = ended.append_column("quality", verdicts.find(ended["clip_key"]))
    counts = {str(item["values"]): item["counts"] for item in pc.value_counts(_status_of(reached)).to_pylist()}
    usage = read_usage(out)
    stopped = usage.stopped if places.null_count else None
    return Summary(
        out=out,
        planned=len(jobs),
        done=counts.get("done", 0),
        failed=counts.get("failed", 0),
        skipped=counts.get("skipped", 0),
        pending=places.null_count,
        windows=pc.sum(reached["windows"]).as_py() or 0,
        jobs=_Rows(Ledger(out), ended, records, verdicts),
        verdicts=verdicts.counts(ended.filter(pc.equal(_status_at(records, ended), "done"))["clip_key"]),
        stopped=stopped,
        left=jobs.filter(pc.is_null(places)).select(["job_id", "clip_key"]) if stopped else None,
        cost=usage.as_dict(options.prices) | {"further_gpu_s": verdicts.further_gpu_s(ended["clip_key"])},
    )


def _planned_table(out: str, planned: Iterable[PlannedJob] | None) -> pa.Table:
    if planned is None:
        return plan_table(out, _JOB)
    return pa.Table.from_pylist([{name: getattr(job, name) for name in _JOB} for job in planned], _PLAN_JOB)


def _options(out: str) -> Options:
    """Read the last run's options; the defaults where OUT has no run, as when the caller names the jobs."""
    run = find_run(out)
    return Options() if run is None else Options.model_validate(run.get("options", {}))


def _clip_records(out: str, *, compact: bool, shown_only: bool) -> pa.Table:
    """Read a row for each ended clip; finished clips come first, so that an earlier failure does not count."""
    columns = ("key", *BRIEF["clip"]) if shown_only else ("key", "status", "windows", "record")
    compact_from = COMPACT_FROM if compact else None
    done = read_tables(out, "done", "clip", columns, compact_from=compact_from)
    failed = read_tables(out, "quarantine", "clip", columns, compact_from=compact_from)
    return pa.concat_tables(itertools.chain(done, failed)).combine_chunks()


def _status_at(records: pa.Table, ended: pa.Table) -> pa.ChunkedArray:
    """Look up the status of each ended job."""
    return _status_of(records.select(["status"]).take(ended["record"]))


def _status_of(records: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(records["status"], "failed")


class _Rows(Sequence[JobRow]):
    """A row for each ended job, in the manifest's order, made on demand."""

    def __init__(self, ledger: Ledger, jobs: pa.Table, records: pa.Table, verdicts: Verdicts) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._records = records
        self._verdicts = verdicts

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return next(self._rows(self._jobs.slice(range(len(self))[index], 1)))

    def __iter__(self) -> Iterator[JobRow]:
        return self._rows(self._jobs)

    def of(self, statuses: Sequence[str]) -> Iterator[JobRow]:
        """Select the rows with one of these statuses."""
        reached = _status_at(self._records, self._jobs)
        return self._rows(self._jobs.filter(pc.is_in(reached, pa.array(statuses))))

    def _rows(self, jobs: pa.Table) -> Iterator[JobRow]:
        for start in range(0, len(jobs), ROWS_AT_ONCE):
            part = jobs.slice(start, ROWS_AT_ONCE)
            records = self._records.take(part["record"]).to_pylist()
            verdicts = self._verdicts.rows(part["clip_key"].to_pylist(), part["quality"])
            for job, columns, verdict in zip(part.to_pylist(), records, verdicts, strict=True):
                record = _whole(columns)
                failed = record.get("status", "failed") == "failed"
                output = None if failed else self._ledger.absolute(job["output"])
                skipped = record.get("status") == "skipped"  # not judged, whatever an earlier version recorded
                yield _job_row(job, record, output, no_verdict() if skipped else verdict)


def _whole(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Parse a clip's record, or take the brief columns where only they were read."""
    if "record" in columns:
        record: dict[str, Any] = json.loads(columns["record"])
        return record
    return {name: value for name, value in columns.items() if value is not None}


def _job_row(job: Mapping[str, str], record: Mapping[str, Any], output: str | None, verdict: VerdictRow) -> JobRow:
    """Make a job's row from the record of its clip, a `ClipRecord` or a `FailureRecord`."""
    return {
        "job_id": job["job_id"],
        "status": record.get("status", "failed"),
        "output_uri": output,
        "error_code": record.get("error_code"),
        "reason": record.get("reason"),
        "runs": record.get("runs", 1),
        "windows": record.get("windows", 0),
        "seconds": record.get("seconds", 0.0),
        "finished_at": record.get("finished_at") or record.get("failed_at"),
        "notes": record.get("notes", []),
        "masks": record.get("masks"),
        "masks_coco": record.get("masks_coco"),
        "copied_frames": record.get("copied_frames"),
        "settings": json.dumps(record.get("settings", {}), ensure_ascii=False, sort_keys=True),
        "clip_key": job["clip_key"],
        "predicted_gpu_s": record.get("predicted_gpu_s"),
        "window_rows": record.get("window_rows", []),
        **verdict,
    }
