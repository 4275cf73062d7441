"""The ledger: what is finished, what failed and why; and the counters that add up.

    OUT/run.json                                what was asked last: manifest, options, the plan file
    OUT/plan/<digest>.parquet                   one row a job, never changed
    OUT/artifacts/<k2>/<key>/<attempt>.*        masks and generated frames
    OUT/ledger/done/<k2>/<key>.json             created exclusively, once the artifact is whole
    OUT/ledger/attempts/<k2>/<key>.<id>.json    one for each attempt that went wrong
    OUT/ledger/quarantine/<k2>/<key>.json       failed for good: the row's reason
    OUT/ledger/usage/<run>.json                 what a run took and was predicted to take (usage.py)
    OUT/ledger/compact/*.parquet                copies of records for quick reading (records.py)
    OUT/results/status=*/clips.parquet          one row a job, its windows nested

A key is `<kind>-<digest>`; kinds are `prep` (masks and plan of a clip), `window`, `clip`, `quality` (a finished
clip's numbers) and `ladder` (the attempts at a clip). The records are the truth;
everything in `results/` can be made again from them.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch import storage
from vace_batch.access import redact
from vace_batch.config import Options
from vace_batch.errors import UsageError
from vace_batch.patience import again
from vace_batch.records import BRIEF, COMPACT_FROM, k2, read_tables, record_name
from vace_batch.records import Record as Record
from vace_batch.usage import read_usage
from vace_batch.verdicts import NO_VERDICT, Verdicts

_AT_ONCE = 10_000
"""Rows that are Python objects at a time."""

KINDS = ("prep", "window", "clip", "quality", "ladder")


def make_key(kind: str, *parts: object) -> str:
    """`<kind>-<digest>` of everything in `parts`, which must be JSON-able."""
    return f"{kind}-{storage.digest(json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False))}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """Records of one output folder. Any number of writers, on any machine; no state in memory."""

    def __init__(self, out: str) -> None:
        self.out = out

    def artifact_uri(self, key: str, suffix: str) -> str:
        """A name that no other attempt has."""
        return storage.join(self.out, "artifacts", k2(key), key, uuid.uuid4().hex[:12] + suffix)

    def relative(self, uri: str) -> str:
        """`uri` as it is written into records: relative to OUT, so that OUT can be moved."""
        prefix = self.out.rstrip("/") + "/"
        return uri[len(prefix) :] if uri.startswith(prefix) else uri

    def absolute(self, name: str) -> str:
        return storage.join(self.out, name)

    def done(self, key: str) -> Record | None:
        return self._read("done", key)

    def failed(self, key: str) -> Record | None:
        return self._read("quarantine", key)

    def commit(self, key: str, record: Mapping[str, Any]) -> bool:
        """Record that `key` is finished; False when another attempt was first, whose artifact counts."""
        body = {"key": key, "commit": uuid.uuid4().hex[:12], "finished_at": now(), **record}
        return storage.create_exclusive(self._uri("done", key), _dump(body))

    def amend(self, key: str, fields: Mapping[str, Any]) -> None:
        """Say more of what is finished; nothing where `key` is not."""
        record = self.done(key)
        if record is not None:
            storage.publish(self._uri("done", key), _dump({**record, **fields}))

    def quarantine(self, key: str, record: Mapping[str, Any]) -> bool:
        """Record that `key` failed for good."""
        body = {"key": key, "commit": uuid.uuid4().hex[:12], "failed_at": now(), **_tell(record)}
        return storage.create_exclusive(self._uri("quarantine", key), _dump(body))

    def forgive(self, key: str) -> None:
        """Let a failed key be tried again."""
        storage.delete(self._uri("quarantine", key))

    def note_attempt(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep what went wrong in one attempt."""
        name = f"{key}.{uuid.uuid4().hex[:8]}.json"
        uri = storage.join(self.out, "ledger", "attempts", k2(key), name)
        storage.publish(uri, _dump({"key": key, "at": now(), **_tell(record)}))

    def keys(self, state: str, kind: str | None = None) -> set[str]:
        """Keys in `state` (done or quarantine), by listing alone."""
        folder, prefix = storage.join(self.out, "ledger", state), "" if kind is None else kind + "-"
        found = (entry for entry in storage.list_entries(folder, prefix) if not entry.is_temporary)
        return {entry.name.rsplit("/", 1)[-1].removesuffix(".json") for entry in found}

    def _uri(self, state: str, key: str) -> str:
        return storage.join(self.out, "ledger", state, record_name(key))

    def _read(self, state: str, key: str) -> Record | None:
        try:
            record: Record = storage.read_json(self._uri(state, key))
        except FileNotFoundError:
            return None
        return record


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False).encode("utf-8", "surrogatepass")


def _tell(record: Mapping[str, Any]) -> Record:
    """A record whose reason and traceback hold no credentials."""
    return {name: redact(str(value)) if name in _FREE_TEXT and value else value for name, value in record.items()}


_FREE_TEXT = frozenset({"reason", "traceback"})


# --- the plan of a run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One manifest row as it was planned: its identity, its output and the row itself as JSON."""

    job_id: str
    clip_key: str
    prep_key: str
    output: str
    row: str


_PLAN_SCHEMA = pa.schema([(name, pa.string()) for name in ("job_id", "clip_key", "prep_key", "output", "row")])


def write_plan(out: str, planned: Iterable[PlannedJob], run: Mapping[str, Any]) -> None:
    """Store the plan (immutable, named by its content) and point run.json to it; not all of it is in memory at once."""
    sink, jobs = pa.BufferOutputStream(), iter(planned)
    with pq.ParquetWriter(sink, _PLAN_SCHEMA) as writer:
        while some := list(itertools.islice(jobs, _AT_ONCE)):
            columns = {name: [getattr(job, name) for job in some] for name in _PLAN_SCHEMA.names}
            writer.write_table(pa.table(columns, schema=_PLAN_SCHEMA))
    data = sink.getvalue().to_pybytes()
    name = f"plan/{storage.digest(data)}.parquet"
    if not storage.exists(storage.join(out, name)):
        storage.publish(storage.join(out, name), data)
    storage.publish(storage.join(out, "run.json"), _dump({**run, "plan": name, "started_at": now()}))


def read_run(out: str) -> Record:
    """What was asked last of this output folder.

    Raises:
        UsageError: it is not an output folder.
    """
    try:
        run: Record = storage.read_json(storage.join(out, "run.json"))
    except FileNotFoundError:
        raise UsageError(f"{out}: no run.json here; expected the OUT of an earlier `vace-batch run`") from None
    return run


def read_plan(out: str) -> tuple[PlannedJob, ...]:
    """The jobs of the last run on this output folder, in manifest order."""
    return tuple(PlannedJob(**row) for row in _plan_table(out, _PLAN_SCHEMA.names).to_pylist())


def find_job(out: str, job_id: str) -> PlannedJob | None:
    """One job of the last run; None where it had none of that name."""
    table = _plan_table(out, _PLAN_SCHEMA.names)
    rows = table.filter(pc.equal(table["job_id"], job_id)).to_pylist()
    return PlannedJob(**rows[0]) if rows else None


def _plan_table(out: str, columns: Sequence[str]) -> pa.Table:
    uri = storage.join(out, read_run(out)["plan"])

    def read() -> pa.Table:
        data = storage.read_bytes(uri)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read(columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"{redact(uri)}: not what was written ({len(data)} bytes were read)") from error

    return read() if storage.is_local(uri) else again(read)


# --- what the user sees ---------------------------------------------------------------------------------------------


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
        for batch in [] if self.left is None else self.left.to_batches(_AT_ONCE):
            yield from ({**_LEFT, **job, "reason": self.stopped} for job in batch.to_pylist())

    def as_json(self) -> Iterator[str]:
        """Parts of one JSON object: the counters and what is shown of each job."""
        yield json.dumps(self.counters, ensure_ascii=False, allow_nan=False)[:-1] + ', "jobs": ['
        for number, job in enumerate(itertools.chain(self.jobs, self.of("pending"))):
            shown = {name: job[name] for name in (*_SHOWN, *_SHOWN_VERDICT)}
            yield (", " if number else "") + json.dumps(shown, ensure_ascii=False, allow_nan=False)
        yield "]}"


_SHOWN = ("job_id", "status", "output_uri", "error_code", "reason", "attempts", "windows", "seconds")
_SHOWN_VERDICT = ("verdict", "reasons")
_LEFT: Record = {
    "status": "pending",
    "error_code": "budget",
    "attempts": 0,
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
        jobs = _plan_table(out, _JOB)
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
_PLAN_JOB = pa.schema([_PLAN_SCHEMA.field(name) for name in _JOB])


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
        for start in range(0, len(jobs), _AT_ONCE):
            some = jobs.slice(start, _AT_ONCE)
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
        "attempts": record.get("attempts", 1),
        "windows": record.get("windows", 0),
        "seconds": record.get("seconds", 0.0),
        "finished_at": record.get("finished_at") or record.get("failed_at"),
        "words": record.get("words", []),
        "masks": record.get("masks"),
        "masks_coco": record.get("masks_coco"),
        "copied_frames": record.get("copied_frames"),
        "settings": json.dumps(record.get("settings", {}), ensure_ascii=False, sort_keys=True),
        "clip_key": job["clip_key"],
        "predicted_gpu_s": record.get("predicted_gpu_s"),
        "window_rows": record.get("window_rows", []),
    }


_WINDOW_ROW = pa.struct(
    [
        ("key", pa.string()),
        ("region", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("num_frames", pa.int32()),
    ]
    + [("width", pa.int32()), ("height", pa.int32()), ("seed", pa.int64()), ("seconds", pa.float64())]
)
_RESULT_SCHEMA = pa.schema(
    [("job_id", pa.string()), ("output_uri", pa.string()), ("error_code", pa.string()), ("reason", pa.string())]
    + [("attempts", pa.int32()), ("windows", pa.int32()), ("seconds", pa.float64()), ("words", pa.list_(pa.string()))]
    + [("masks", pa.string()), ("masks_coco", pa.string()), ("copied_frames", pa.int64())]
    + [("finished_at", pa.string())]
    + [("verdict", pa.string()), ("score", pa.float64()), ("reasons", pa.list_(pa.string())), ("numbers", pa.string())]
    + [("checks", pa.list_(pa.string())), ("predicted_gpu_s", pa.float64())]
    + [("tries", pa.string()), ("retry_gpu_s", pa.float64())]
    + [("settings", pa.string())]  # JSON: what a later version records more is no other schema
    + [("clip_key", pa.string()), ("window_rows", pa.list_(_WINDOW_ROW))]
)


def write_results(summary: Summary) -> None:
    """Write OUT/results, a Hive-partitioned dataset: one row a finished job, its windows nested."""
    for status in ("done", "failed", "skipped", "pending"):
        uri = storage.join(summary.out, "results", f"status={status}", "clips.parquet")
        rows = summary.of(status)
        some = list(itertools.islice(rows, _AT_ONCE))
        if not some:
            storage.delete(uri)
            continue
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, _RESULT_SCHEMA) as writer:
            while some:
                writer.write_table(pa.Table.from_pylist(some, schema=_RESULT_SCHEMA))
                some = list(itertools.islice(rows, _AT_ONCE))
        storage.publish(uri, sink.getvalue().to_pybytes())
