"""Write and read the plan of a run: `run.json` and the table of planned jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import as_json, now
from vace_batch.ledger.schema import SCHEMA_KEY, SCHEMA_VERSION, RunRecord, check_version
from vace_batch.redact import redact
from vace_batch.storage import files as storage
from vace_batch.storage.retry import retry

ROWS_AT_ONCE = 10_000
"""Rows in memory as Python objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One planned manifest row: its identity, its output and the row itself as JSON."""

    job_id: str
    clip_key: str
    prep_key: str
    output: str
    row: str


PLAN_SCHEMA = pa.schema([(name, pa.string()) for name in ("job_id", "clip_key", "prep_key", "output", "row")])


def write_plan(out: str, planned: Iterable[PlannedJob], run: Mapping[str, object]) -> None:
    """Store the plan, named by its content and never changed, and point run.json to it.

    The plan is written in parts: not all of `planned` is in memory at once.

    Raises:
        UsageError: another version of vace-batch made OUT.
    """
    find_run(out)
    sink = pa.BufferOutputStream()
    jobs = iter(planned)
    with pq.ParquetWriter(sink, PLAN_SCHEMA) as writer:
        while part := list(itertools.islice(jobs, ROWS_AT_ONCE)):
            columns = {name: [getattr(job, name) for job in part] for name in PLAN_SCHEMA.names}
            writer.write_table(pa.table(columns, schema=PLAN_SCHEMA))
    data = sink.getvalue().to_pybytes()
    name = f"plan/{storage.digest(data)}.parquet"
    if not storage.exists(storage.join(out, name)):
        storage.publish(storage.join(out, name), data)
    body = {**run, SCHEMA_KEY: SCHEMA_VERSION, "plan": name, "started_at": now()}
    storage.publish(storage.join(out, "run.json"), as_json(body))


def find_run(out: str) -> RunRecord | None:
    """Read the last run on OUT; None for a folder that is new.

    Raises:
        UsageError: another version of vace-batch made OUT.
    """
    try:
        run: RunRecord = storage.read_json(storage.join(out, "run.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    check_version(out, run.get(SCHEMA_KEY), "give a new OUT, or use the version of vace-batch that made this one")
    return run


def read_run(out: str) -> RunRecord:
    """Read the last run on OUT.

    Raises:
        UsageError: OUT is not an output folder, or another version of vace-batch made OUT.
    """
    run = find_run(out)
    if run is None:
        raise UsageError(f"{out}: no run.json here; expected the OUT of an earlier `vace-batch run`")
    return run


def read_plan(out: str) -> tuple[PlannedJob, ...]:
    """Read the jobs of the last run on OUT, in manifest order."""
    return tuple(PlannedJob(**row) for row in plan_table(out, PLAN_SCHEMA.names).to_pylist())


def find_job(out: str, job_id: str) -> PlannedJob | None:
    """Read one job of the last run; None where the run had no such job."""
    table = plan_table(out, PLAN_SCHEMA.names)
    rows = table.filter(pc.equal(table["job_id"], job_id)).to_pylist()
    return PlannedJob(**rows[0]) if rows else None


def plan_table(out: str, columns: Sequence[str]) -> pa.Table:
    """Read columns of the last run's plan; half an answer of a store is asked again."""
    uri = storage.join(out, read_run(out)["plan"])

    def read() -> pa.Table:
        data = storage.read_bytes(uri)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read(columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise OSError(
                f"{redact(uri)}: the content differs from what was written ({len(data)} bytes were read)"
            ) from error

    return read() if storage.is_local(uri) else retry(read)
