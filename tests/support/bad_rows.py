"""Rows of a manifest through the manifest reader and the first step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.cluster.units import Failure
from vace_batch.errors import ClipError
from vace_batch.manifest.reader import read_manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.prepare import prepare

BOX = {"x": 8.0, "y": 8.0, "width": 16.0, "height": 16.0}


def outcomes(folder: Path, rows: list[Mapping[str, Any]], options: Options | None = None) -> dict[str, str]:
    """Prepare each row; returns "ok" or the failure's code by job id.

    Checks each reason for a readable sentence, and that a row's failure leaves the other rows alone.
    """
    batch = open_rows(folder, rows, options)
    graph, found = ClipGraph(batch.pending), {}
    for work, unit in zip(batch.pending, list(graph.first_units()), strict=True):
        try:
            prepare(work, MaskModels())
            found[work.job.job_id] = "ok"
        except ClipError as error:
            assert len(error.reason) > 15 and "Traceback" not in error.reason and not error.retryable
            found[work.job.job_id] = error.code
            graph.on_failed(unit, failure_of(unit.unit_id, error))
    summary = close_batch(batch)
    assert {job["job_id"]: job["error_code"] for job in summary.jobs} == {
        name: code for name, code in found.items() if code != "ok"
    }
    assert not (folder / "out" / "videos").exists()
    return found


def failure_of(unit_id: str, error: ClipError) -> Failure:
    return Failure(unit_id=unit_id, code=error.code, reason=error.reason, retryable=error.retryable, attempts=1)


def open_rows(folder: Path, rows: list[Mapping[str, Any]], options: Options | None = None) -> Batch:
    filled = [{"task": "removal", "boxes": None if "mask_uri" in row else [BOX], **row} for row in rows]
    names = dict.fromkeys(name for row in filled for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in filled] for name in names}), folder / "m.parquet")
    return open_batch(read_manifest(folder / "m.parquet"), str(folder / "out"), options or Options())


def row(name: str, **fields: object) -> dict[str, object]:
    return {"job_id": name, "video_uri": name, **fields}
