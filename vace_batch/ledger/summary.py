"""The ledger: what is finished, what failed and why; and the counters that add up.

    OUT/run.json                                what was asked last: manifest, options, the plan file
    OUT/plan/<digest>.parquet                   one row a job, never changed
    OUT/artifacts/<k2>/<key>/<attempt>.*        masks and generated frames
    OUT/ledger/done/<k2>/<key>.json             created exclusively, once the artifact is whole
    OUT/ledger/mishaps/<k2>/<key>.<id>.json     one for each run of a step that went wrong
    OUT/ledger/quarantine/<k2>/<key>.json       failed for good: the row's reason
    OUT/ledger/usage/<run>.json                 what a run took and was predicted to take (usage.py)
    OUT/ledger/compact/*.parquet                copies of records for quick reading (records.py)
    OUT/results/status=*/clips.parquet          one row a job, its windows nested

A key is `<kind>-<digest>`; kinds are `prep` (masks and plan of a clip), `window`, `clip`, `quality` (a finished
clip's numbers) and `attempts` (the attempts at a clip). The records are the truth;
everything in `results/` can be made again from them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.records import BRIEF, COMPACT_FROM, Record, read_tables
from vace_batch.ledger.run_plan import PLAN_SCHEMA, ROWS_AT_ONCE, PlannedJob, plan_table, read_run
from vace_batch.ledger.usage import read_usage
from vace_batch.ledger.verdicts import NO_VERDICT, Verdicts
from vace_batch.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counters and finished jobs; planned = done + failed + skipped + pending, always."""

    out: str
    planned: int
    done: int
    failed: int
    skipped: int
    pending: int
    windows: int
    jobs: Sequence[Record]
    verdicts: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None
    left: pa.Table | None = None

    def __post_init__(self) -> None:
        if self.planned != self.done + self.failed + self.skipped + self.pending:
            raise AssertionError(f"counters do not add up: {self}")

    @property
    def counters(self) -> Record:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("jobs", "left")}

    def __str__(self) -> str:
        counts = f"planned {self.planned} = done {self.done} + failed {self.failed} + skipped {self.skipped}"
        verdicts = ", ".join(f"{count} {word}" for word, count in sorted(self.verdicts.items()))
        counts += (f" + pending {self.pending}" if self.pending else "") + f"; windows {self.windows}"
        return counts + (f"; verdicts {verdicts}" if verdicts else "")

    def of(self, *statuses: str) -> Iterator[Record]:
        """The finished jobs with one of these statuses; those `left` by a budget are `pending`."""
        if statuses == ("pending",):
            return self._left()
        if isinstance(self.jobs, _Rows):
            return self.jobs.of(statuses)
        return (job for job in self.jobs if job["status"] in statuses)

    def _left(self) -> Iterator[Record]:
        for batch in [] if self.left is None else self.left.to_batches(ROWS_AT_ONCE):
            yield from ({**_LEFT, **job, "reason": self.stopped} for job in batch.to_pylist())

    def as_json(self) -> Iterator[str]:
        """Parts of one JSON object: the counters and what is shown of each job."""
        yield json.dumps(self.counters, ensure_ascii=False, allow_nan=False)[:-1] + ', "jobs": ['
        for number, job in enumerate(itertools.chain(self.jobs, self.of("pending"))):
            shown = {name: job[name] for name in (*_SHOWN, *_SHOWN_VERDICT)}
            yield (", " if number else "") + json.dumps(shown, ensure_ascii=False, allow_nan=False)
        yield "]}"


_SHOWN = ("job_id", "status", "output_uri", "error_code", "reason", "runs", "windows", "seconds")
_SHOWN_VERDICT = ("verdict", "reasons")
_LEFT: Record = {
    "status": "pending",
    "error_code": "budget",
    "runs": 0,
    "windows": 0,
    "seconds": 0.0,
    "output_uri": None,
}
_LEFT |= NO_VERDICT


def summarise(
    out: str, planned: Iterable[PlannedJob] | None = None, *, compact: bool = False, shown_only: bool = False
) -> Summary:
    """What the ledger says of the planned jobs (of the last run unless given).

    `compact`, for drivers: keep the records that were read together, so that they are read quickly next time.
    `shown_only`: the jobs have what `as_json` tells and no more, so that most of each record is not read.

    Raises:
        UsageError: `out` is not an output folder.
    """
    if planned is None:
        jobs = plan_table(out, _JOB)
    else:
        jobs = pa.Table.from_pylist([{name: getattr(job, name) for name in _JOB} for job in planned], _PLAN_JOB)
    records = _clip_records(out, BRIEF if shown_only else ("key", "status", "windows", "record"), compact)
    found = pc.index_in(jobs["clip_key"], records["key"].combine_chunks())
    chosen = records.select(["status", "windows"]).take(found.drop_null())
    options = _options(out)
    verdicts = Verdicts(out, options.quality, whole=not shown_only, compact=compact)
    ended = jobs.append_column("record", found).filter(pc.is_valid(found))
    ended = ended.append_column("quality", verdicts.find(ended["clip_key"]))
    count = {str(item["values"]): item["counts"] for item in pc.value_counts(_status_of(chosen)).to_pylist()}
    usage = read_usage(out)
    stopped = usage.stopped if found.null_count else None
    left = jobs.filter(pc.is_null(found)).select(["job_id", "clip_key"]) if stopped else None
    return Summary(
        out=out,
        planned=len(jobs),
        done=count.get("done", 0),
        failed=count.get("failed", 0),
        skipped=count.get("skipped", 0),
        pending=found.null_count,
        windows=pc.sum(chosen["windows"]).as_py() or 0,
        jobs=_Rows(Ledger(out), ended, records, verdicts),
        verdicts=verdicts.counts(ended["clip_key"]),
        stopped=stopped,
        left=left,
        cost=usage.as_dict(options.prices) | {"further_gpu_s": verdicts.further_gpu_s(ended["clip_key"])},
    )


def _options(out: str) -> Options:
    """The last run's options; those of this version where it has none."""
    try:
        return Options.model_validate(read_run(out).get("options", {}))
    except UsageError:  # whoever asks names the jobs
        return Options()


_JOB = ("job_id", "clip_key", "output")
_PLAN_JOB = pa.schema([PLAN_SCHEMA.field(name) for name in _JOB])


def _clip_records(out: str, columns: Sequence[str], compact: bool) -> pa.Table:
    """A row a clip that ended, what was done in the end before what failed once."""
    compact_from = COMPACT_FROM if compact else None
    states = ("done", "quarantine")
    parts = (table for state in states for table in read_tables(out, state, "clip", columns, compact_from=compact_from))
    return pa.concat_tables(parts).combine_chunks()


def _status_of(records: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(records["status"], "failed")


class _Rows(Sequence[Record]):
    """A row a finished job, in the manifest's order, made when it is asked for."""

    def __init__(self, ledger: Ledger, jobs: pa.Table, records: pa.Table, verdicts: Verdicts) -> None:
        self._ledger, self._jobs, self._records, self._verdicts = ledger, jobs, records, verdicts

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return next(self._made(self._jobs.slice(range(len(self))[index], 1)))

    def __iter__(self) -> Iterator[Record]:
        return self._made(self._jobs)

    def of(self, statuses: Sequence[str]) -> Iterator[Record]:
        """The rows with one of these."""
        found = pc.is_in(_status_of(self._records.select(["status"]).take(self._jobs["record"])), pa.array(statuses))
        return self._made(self._jobs.filter(found))

    def _made(self, jobs: pa.Table) -> Iterator[Record]:
        for start in range(0, len(jobs), ROWS_AT_ONCE):
            some = jobs.slice(start, ROWS_AT_ONCE)
            records = self._records.take(some["record"]).to_pylist()
            verdicts = self._verdicts.rows(some["clip_key"].to_pylist(), some["quality"])
            for job, record, verdict in zip(some.to_pylist(), records, verdicts, strict=True):
                content = record.get("record")
                whole = json.loads(content) if content is not None else _present(record)
                yield _job_row(self._ledger, job, whole) | verdict


def _present(record: Record) -> Record:
    return {name: value for name, value in record.items() if value is not None}


def _job_row(ledger: Ledger, job: Record, record: Record) -> Record:
    status = record.get("status", "failed")
    return {
        "job_id": job["job_id"],
        "status": status,
        "output_uri": None if status == "failed" else ledger.absolute(job["output"]),
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
    }
