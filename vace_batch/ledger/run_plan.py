"""The plan of a run: `run.json` and the table of planned jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import as_json, now
from vace_batch.ledger.records import Record
from vace_batch.redact import redact
from vace_batch.storage import files as storage
from vace_batch.storage.retry import retry

ROWS_AT_ONCE = 10_000
"""Rows that are Python objects at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One manifest row as it was planned: its identity, its output and the row itself as JSON."""

    job_id: str
    clip_key: str
    prep_key: str
    output: str
    row: str


PLAN_SCHEMA = pa.schema([(name, pa.string()) for name in ("job_id", "clip_key", "prep_key", "output", "row")])


def write_plan(out: str, planned: Iterable[PlannedJob], run: Mapping[str, Any]) -> None:
    """Store the plan (immutable, named by its content) and point run.json to it; not all of it is in memory at once."""
    sink, jobs = pa.BufferOutputStream(), iter(planned)
    with pq.ParquetWriter(sink, PLAN_SCHEMA) as writer:
        while some := list(itertools.islice(jobs, ROWS_AT_ONCE)):
            columns = {name: [getattr(job, name) for job in some] for name in PLAN_SCHEMA.names}
            writer.write_table(pa.table(columns, schema=PLAN_SCHEMA))
    data = sink.getvalue().to_pybytes()
    name = f"plan/{storage.digest(data)}.parquet"
    if not storage.exists(storage.join(out, name)):
        storage.publish(storage.join(out, name), data)
    storage.publish(storage.join(out, "run.json"), as_json({**run, "plan": name, "started_at": now()}))


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
    return tuple(PlannedJob(**row) for row in plan_table(out, PLAN_SCHEMA.names).to_pylist())


def find_job(out: str, job_id: str) -> PlannedJob | None:
    """One job of the last run; None where it had none of that name."""
    table = plan_table(out, PLAN_SCHEMA.names)
    rows = table.filter(pc.equal(table["job_id"], job_id)).to_pylist()
    return PlannedJob(**rows[0]) if rows else None


def plan_table(out: str, columns: Sequence[str]) -> pa.Table:
    uri = storage.join(out, read_run(out)["plan"])

    def read() -> pa.Table:
        data = storage.read_bytes(uri)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read(columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"{redact(uri)}: not what was written ({len(data)} bytes were read)") from error

    return read() if storage.is_local(uri) else retry(read)
