"""Write the results: one Parquet row a job with its windows nested."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.ledger.run_plan import ROWS_AT_ONCE
from vace_batch.ledger.summary import Summary
from vace_batch.storage import files as storage

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
    + [("runs", pa.int32()), ("windows", pa.int32()), ("seconds", pa.float64()), ("notes", pa.list_(pa.string()))]
    + [("masks", pa.string()), ("masks_coco", pa.string()), ("copied_frames", pa.int64())]
    + [("finished_at", pa.string())]
    + [("verdict", pa.string()), ("score", pa.float64()), ("reasons", pa.list_(pa.string())), ("metrics", pa.string())]
    + [("checks", pa.list_(pa.string())), ("predicted_gpu_s", pa.float64())]
    + [("attempts", pa.string()), ("retry_gpu_s", pa.float64())]
    + [("settings", pa.string())]  # JSON: what a later version records more is no other schema
    + [("clip_key", pa.string()), ("window_rows", pa.list_(_WINDOW_ROW))]
)


def write_results(summary: Summary) -> None:
    """Write OUT/results, a Hive-partitioned dataset: one row a finished job, its windows nested."""
    for status in ("done", "failed", "skipped", "pending"):
        uri = storage.join(summary.out, "results", f"status={status}", "clips.parquet")
        rows = summary.of(status)
        some = list(itertools.islice(rows, ROWS_AT_ONCE))
        if not some:
            storage.delete(uri)
            continue
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, _RESULT_SCHEMA) as writer:
            while some:
                writer.write_table(pa.Table.from_pylist(some, schema=_RESULT_SCHEMA))
                some = list(itertools.islice(rows, ROWS_AT_ONCE))
        storage.publish(uri, sink.getvalue().to_pybytes())
