"""Every planned job with what became of it, in the manifest's order, read as a stream.

Plan and results are Parquet files that may hold any number of rows. Both are in the manifest's order, so they are
merged as they are read; only the plan's keys, 40 bytes a row, are held to find a result's place.
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

_READ = 10_000
"""Rows that are Arrow's at a time."""

_AT_ONCE = 500
"""Rows that are Python objects at a time."""

_UNITS = {"px": "px", "percent": "%", "tokens": "tokens"}
_PLACE = "place in the plan"
_PLANNED = ("job_id", "clip_key", "prep_key", "row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A planned job: its manifest row as it was understood, and its row of the results; {} while there is none."""

    number: int
    job_id: str
    status: str
    prep_key: str
    job: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def gpu_s(self) -> float:
        """Seconds that VACE worked for it, attempts that were not kept too."""
        windows = sum(row["seconds"] or 0.0 for row in self.result.get("window_rows") or ())
        return float(windows + (self.result.get("retry_gpu_s") or 0.0))

    @property
    def reasons(self) -> list[str]:
        """Why it failed or was skipped, then why its verdict is no pass."""
        code, reason = self.result.get("error_code"), self.result.get("reason")
        first = [f"{code}: {reason}" if code else reason] if reason else []
        return [*first, *(self.result.get("reasons") or ())]

    @property
    def settings(self) -> dict[str, Any]:
        """What every window was made with; {} where nothing was made."""
        return _object(self.result.get("settings"))

    @property
    def attempts(self) -> dict[str, Any]:
        """The attempts at it and which one is kept; {} where one was enough."""
        return _object(self.result.get("attempts"))

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured for the verdict."""
        return _object(self.result.get("metrics"))

    @property
    def profile(self) -> str:
        """Model and preset, as it was made or as it was asked for."""
        model = str(self.settings.get("model") or self.job.get("model") or "default model").rstrip("/")
        return f"{model.rsplit('/', 1)[-1]} · {self.job.get('preset') or self.job.get('task')}"


def read_clips(out: str) -> Iterator[Clip]:
    """Every job of the last run on `out`.

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
    """Whether OUT/results was ever written."""
    return any(True for _ in storage.list_entries(storage.join(out, "results")))


def manifest_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's columns of a job that say something, so that a manifest made of them asks for the same."""
    row = {name: _without_empty(job.get(name)) for name in SCHEMA.names}
    dilate = job.get("dilate") or {}
    row["dilate"] = next((f"{dilate[name]:g}{unit}" for name, unit in _UNITS.items() if dilate.get(name)), None)
    return {name: value for name, value in row.items() if value not in (None, [], {})}


def _without_empty(value: Any) -> Any:
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
    """The rows with this status that are of the plan, each with its place in it."""
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
                    raise UsageError(f"{out}/results: not in the order of the last run's manifest; give --refresh")
                last = place
                yield place, {**row, "status": status}
