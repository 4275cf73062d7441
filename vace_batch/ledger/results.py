"""Write the results: one Parquet row a job with its windows nested."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.ledger.run_plan import ROWS_AT_ONCE
from vace_batch.ledger.schema import SCHEMA_KEY, SCHEMA_VERSION
from vace_batch.ledger.summary import Summary
from vace_batch.storage import files as storage

STATUSES = ("done", "failed", "skipped", "pending")

METADATA_KEY = b"vace_batch." + SCHEMA_KEY.encode()
"""The schema version stands under this key in the metadata of every Parquet file of the results."""

_WINDOW_ROW = pa.struct(
    {
        "key": pa.string(),
        "region": pa.int32(),
        "start": pa.int64(),
        "stop": pa.int64(),
        "num_frames": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "seed": pa.int64(),
        "seconds": pa.float64(),
    }
)
RESULT_SCHEMA = pa.schema(
    {
        "job_id": pa.string(),
        "output_uri": pa.string(),
        "error_code": pa.string(),
        "reason": pa.string(),
        "runs": pa.int32(),
        "windows": pa.int32(),
        "seconds": pa.float64(),
        "notes": pa.list_(pa.string()),
        "masks": pa.string(),
        "masks_coco": pa.string(),
        "copied_frames": pa.int64(),
        "finished_at": pa.string(),
        "verdict": pa.string(),
        "score": pa.float64(),
        "reasons": pa.list_(pa.string()),
        "metrics": pa.string(),
        "checks": pa.list_(pa.string()),
        "predicted_gpu_s": pa.float64(),
        "attempts": pa.string(),
        "retry_gpu_s": pa.float64(),
        "settings": pa.string(),  # JSON, so that a setting more is no other schema
        "clip_key": pa.string(),
        "window_rows": pa.list_(_WINDOW_ROW),
    },
    metadata={METADATA_KEY: str(SCHEMA_VERSION)},
)
"""The columns of `schema.JobRow` but `status`, which is the partition."""


def write_results(summary: Summary) -> None:
    """Write OUT/results, a Hive-partitioned dataset by status."""
    for status in STATUSES:
        uri = storage.join(summary.out, "results", f"status={status}", "clips.parquet")
        rows = summary.of(status)
        part = list(itertools.islice(rows, ROWS_AT_ONCE))
        if not part:
            storage.delete(uri)
            continue
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, RESULT_SCHEMA) as writer:
            while part:
                writer.write_table(pa.Table.from_pylist(part, schema=RESULT_SCHEMA))
                part = list(itertools.islice(rows, ROWS_AT_ONCE))
        storage.publish(uri, sink.getvalue().to_pybytes())
