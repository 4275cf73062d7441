"""Read every planned job with its result, in the manifest's order, as a stream.

Plan and results are Parquet files of any size. Both are in the manifest's order, so both are merged while they are
read; only the plan's keys, 40 bytes a row, are in memory to find a result's place.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch.errors import UsageError
from vace_batch.ledger.results import METADATA_KEY, STATUSES
from vace_batch.ledger.run_plan import read_run
from vace_batch.ledger.schema import check_version
from vace_batch.manifest.schema import SCHEMA
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries

_READ = 10_000
"""Rows read at a time as an Arrow batch."""

_AT_ONCE = 500
"""Rows at a time as Python objects."""

_UNITS = {"px": "px", "percent": "%", "tokens": "tokens"}
_PLACE = "place in the plan"
_PLANNED = ("job_id", "clip_key", "prep_key", "row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A planned job: its parsed manifest row, and its row of the results, {} before the job ends."""

    number: int
    job_id: str
    status: str
    prep_key: str
    job: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all attempts at the clip."""
        windows = sum(row["seconds"] or 0.0 for row in self.result.get("window_rows") or ())
        return float(windows + (self.result.get("retry_gpu_s") or 0.0))

    @property
    def reasons(self) -> list[str]:
        """Why the clip failed or was skipped, then why its verdict is no pass."""
        code, reason = self.result.get("error_code"), self.result.get("reason")
        first = [f"{code}: {reason}" if code else reason] if reason else []
        return [*first, *(self.result.get("reasons") or ())]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the clip's windows; {} before the clip ends."""
        return _object(self.result.get("settings"))

    @property
    def attempts(self) -> dict[str, Any]:
        """`attempts` and the `chosen` one; {} for a clip with one attempt."""
        return _object(self.result.get("attempts"))

    @property
    def metrics(self) -> dict[str, Any]:
        """The measured values, by check."""
        return _object(self.result.get("metrics"))

    @property
    def profile(self) -> str:
        """Model and preset: of the finished clip, else of the manifest row."""
        model = str(self.settings.get("model") or self.job.get("model") or "default model").rstrip("/")
        return f"{model.rsplit('/', 1)[-1]} · {self.job.get('preset') or self.job.get('task')}"


def read_clips(out: str) -> Iterator[Clip]:
    """Read every job of the last run on `out`.

    Raises:
        UsageError: `out` is not an output folder, or its results are those of an earlier run.
    """
    plan_uri = storage.join(out, str(read_run(out)["plan"]))
    with ExitStack() as stack:
        plan = _open(stack, plan_uri)
        keys = plan.read(["clip_key"], use_threads=False)["clip_key"].combine_chunks()
        streams = [_results(stack, out, status, keys) for status in STATUSES]
        results = heapq.merge(*streams, key=itemgetter(0))
        place, result = next(results, (len(keys), {}))
        for number, planned in enumerate(_rows(plan, _PLANNED)):
            mine: Mapping[str, Any] = {}
            while place <= number:  # twice the same only while a run writes its results
                mine = result
                place, result = next(results, (len(keys), {}))
            yield Clip(
                number=number,
                job_id=planned["job_id"],
                status=mine.get("status", "pending"),
                prep_key=planned["prep_key"],
                job=json.loads(planned["row"]),
                result=mine,
            )


def has_results(out: str) -> bool:
    """Tell whether OUT/results was ever written."""
    return any(True for _ in list_entries(storage.join(out, "results")))


def manifest_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write a job as a row of a manifest that asks for the same; empty columns are left out."""
    row = {name: _without_empty(job.get(name)) for name in SCHEMA.names}
    dilate = job.get("dilate") or {}
    row["dilate"] = next((f"{dilate[name]:g}{unit}" for name, unit in _UNITS.items() if dilate.get(name)), None)
    return {name: value for name, value in row.items() if value not in (None, [], {})}


def _without_empty(value: object) -> object:
    if isinstance(value, Mapping):
        inner = {name: _without_empty(one) for name, one in value.items()}
        return {name: one for name, one in inner.items() if one not in (None, [], {})}
    return value


def _object(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _open(stack: ExitStack, uri: str) -> pq.ParquetFile:
    return pq.ParquetFile(stack.enter_context(closing(storage.open_read(uri))))


def _rows(file: pq.ParquetFile, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(_READ, columns=list(columns), use_threads=False):
        for start in range(0, len(batch), _AT_ONCE):
            yield from batch.slice(start, _AT_ONCE).to_pylist()


def _results(stack: ExitStack, out: str, status: str, keys: pa.Array) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows with a status, each with its place in the plan; rows of other plans are left out."""
    try:
        file = _open(stack, storage.join(out, "results", f"status={status}", "clips.parquet"))
    except FileNotFoundError:
        return
    version = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    check_version(f"{out}/results", None if version is None else int(version), "give --refresh")
    last = -1
    for batch in file.iter_batches(_READ, use_threads=False):
        places = pc.index_in(batch["clip_key"], keys)
        mine = batch.append_column(_PLACE, places).filter(pc.is_valid(places))
        for start in range(0, len(mine), _AT_ONCE):
            for row in mine.slice(start, _AT_ONCE).to_pylist():
                place = row.pop(_PLACE)
                if place <= last:
                    raise UsageError(
                        f"{out}/results: rows are not in the order of the last run's manifest; give --refresh"
                    )
                last = place
                yield place, {**row, "status": status}
