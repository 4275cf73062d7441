"""Make manifest rows for tests, their jobs and their faults."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from vace_batch.errors import Fault, ManifestError
from vace_batch.manifest.job import Job
from vace_batch.manifest.reader import jobs_of
from vace_batch.manifest.schema import SCHEMA

BOX = {"x": 1, "y": 2.5, "width": 30, "height": 40}
GOOD = {"job_id": "a", "video_uri": "a.mp4", "task": "removal", "boxes": [BOX]}
NONE = {"boxes": None}


def faults_of(*rows: dict[str, Any], typed: bool = False) -> list[Fault]:
    table = pa.Table.from_pylist(list(rows), schema=_schema(rows) if typed else None)
    with pytest.raises(ManifestError) as caught:
        jobs_of(table, "/data")
    return list(caught.value.faults)


def _schema(rows: tuple[dict[str, Any], ...]) -> Any:
    return pa.schema([field for field in SCHEMA if any(field.name in row for row in rows)])


def job_of(**row: Any) -> Job:
    (job,) = jobs_of(pa.Table.from_pylist([{**GOOD, **row}]), "/data")
    return job
