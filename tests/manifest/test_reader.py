"""Test that good rows become jobs, and that every fault of every row is reported at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.manifest_rows import BOX, GOOD, faults_of
from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.manifest.job import BoxKey
from vace_batch.manifest.reader import Manifest, jobs_of, read_manifest
from vace_batch.manifest.schema import SCHEMA, VERSION_KEY


def write(path: Path, *rows: dict[str, Any]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


@pytest.mark.parametrize("task", ["t2v", "removal"])
def test_a_column_that_is_there_and_null_is_not_given(task: str) -> None:
    row = {**GOOD, "task": task, "boxes": None if task == "t2v" else [BOX], "prompt": "a lake"}
    (job,) = jobs_of(pa.Table.from_pylist([row], schema=SCHEMA), "/data")
    assert job == next(iter(jobs_of(pa.Table.from_pylist([row]), "/data")))


def test_rows_count_from_0_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vace_batch.manifest.reader._BATCH_ROWS", 100)
    count = 250
    table = pa.table(
        {"job_id": [str(i) for i in range(count)], "video_uri": ["v"] * count, "task": ["removal"] * count}
    )
    table = table.append_column("targets", pa.array([["car"]] * count))
    pq.write_table(table, tmp_path / "m.parquet")
    jobs = read_manifest(tmp_path / "m.parquet").jobs
    assert [job.row for job in jobs] == list(range(count)) and jobs[249].job_id == "249"
    bad = table.set_column(0, "job_id", pa.array([str(i) for i in range(count - 1)] + ["5"]))
    pq.write_table(bad, tmp_path / "m.parquet")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.parquet")
    assert [(fault.row, fault.column) for fault in caught.value.faults] == [(249, "job_id")]


def test_all_faults_of_all_rows_come_at_once_in_row_order() -> None:
    faults = faults_of(
        {**GOOD, "seed": -1, "dilate": "6", "promt": "x", "priority": None, "end_s": None},
        {**GOOD, "job_id": "b", "task": "remove", "priority": 5000},
        {**GOOD, "job_id": "a", "end_s": -2.0},
    )
    assert [(fault.row, fault.job_id, fault.column) for fault in faults] == [
        (None, None, "promt"),
        (0, "a", "dilate"),
        (0, "a", "seed"),
        (1, "b", "task"),
        (1, "b", "priority"),
        (2, "a", "job_id"),
        (2, "a", "end_s"),
    ]
    assert faults[0].expected == "prompt?"
    assert str(faults[1]) == (
        "row 0 (a), column dilate: got '6', expected a number and a unit: 0..1000px, 0..200% or 0..16tokens, "
        "such as '6px', '5%' or '1token'"
    )


def test_columns_are_checked_before_rows() -> None:
    table = pa.table(
        {
            "job_id": [1],
            "video_uri": [b"a.mp4"],
            "seed": ["7"],
            "targets": ["car"],
            "boxes": [[{"x": 1, "y": 2, "widht": 3, "height": 4}]],
            "sampling": [{"num_inference_steps": 2.5, "mask_rul\7": "max4"}],
            "adapters": ["l"],
            "loras": [["l"]],
        }
    )
    with pytest.raises(ManifestError) as caught:
        jobs_of(table, "/data")
    assert {fault.column: (fault.row, fault.got) for fault in caught.value.faults} == {
        "job_id": (None, "int64"),
        "video_uri": (None, "binary"),
        "task": (None, "no such column"),
        "seed": (None, "string"),
        "targets": (None, "string"),
        "boxes[].widht": (None, "an unknown field"),
        "boxes[].width": (None, "no such field"),
        "sampling.num_inference_steps": (None, "double"),
        r"'sampling.mask_rul\x07'": (None, "an unknown field"),
        "adapters": (None, "an unknown column"),
        "loras[]": (None, "string"),
    }


def test_a_column_twice_is_a_fault() -> None:
    table = pa.Table.from_pylist([GOOD]).append_column("task", pa.array(["removal"]))
    with pytest.raises(ManifestError, match="column task: got the column 2 times"):
        jobs_of(table, "/data")


def test_types_that_lose_nothing_are_accepted() -> None:
    box = pa.struct(
        [("height", pa.int8()), ("width", pa.uint16()), ("x", pa.float32()), ("y", pa.float64()), ("frame", pa.null())]
    )
    table = pa.table(
        {
            "job_id": pa.array(["a"], pa.large_string()),
            "video_uri": pa.array(["a.mp4"], pa.string_view()),
            "task": pa.array(["removal"]).dictionary_encode(),
            "boxes": pa.array([[{"height": 4, "width": 3, "x": 1.5, "y": 2, "frame": None}]], pa.large_list(box)),
            "seed": pa.array([7], pa.uint64()),
            "end_s": pa.array([3], pa.int32()),
            "prompt": pa.nulls(1),
        }
    )
    (job,) = jobs_of(table, "/data")
    assert (job.boxes, job.seed, job.end_s) == ((BoxKey(x=1.5, y=2.0, width=3.0, height=4.0),), 7, 3.0)
    assert isinstance(job.end_s, float)
    (fault,) = _caught(table.set_column(4, "seed", pa.array([2**63], pa.uint64())))
    assert fault.column == "seed"


def test_what_pandas_writes_is_read() -> None:
    rows = pa.Table.from_pylist([GOOD | {"job_id": name} for name in "abc"])
    rows = rows.drop_columns([name for name in ("seed",) if name in rows.column_names])
    seeds = rows.append_column("seed", pa.array([7.0, None, float("nan")]))
    jobs = jobs_of(seeds.append_column("__index_level_0__", pa.array([17, 4, 2])), "/data")
    assert [job.seed for job in jobs] == [7, None, None] and isinstance(jobs[0].seed, int)
    faults = _caught(rows.append_column("seed", pa.array([7.5, float("inf"), 2.0**60])))
    assert [(fault.row, fault.column, fault.expected) for fault in faults] == [
        (row, "seed", "a whole number") for row in range(3)
    ]


def _caught(table: Any) -> tuple[Fault, ...]:
    with pytest.raises(ManifestError) as caught:
        jobs_of(table, "/data")
    return caught.value.faults


def test_text_that_is_no_utf8_is_a_fault_of_its_row() -> None:
    latin1 = pa.array([b"ok", "caf\u00e9".encode("latin-1"), b"ok"]).view(pa.string())
    table = pa.Table.from_pylist([{**GOOD, "job_id": name} for name in "abc"]).append_column("prompt", latin1)
    assert [(fault.row, fault.job_id, fault.column) for fault in _caught(table)] == [(1, "b", "prompt")]


@pytest.mark.parametrize("data", [b"", b"hello, this is text", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_one_fault(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.parquet").write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.parquet")
    assert len(caught.value.faults) == 1 and str(caught.value).startswith("manifest: got ")


def test_a_column_name_that_is_no_utf8_is_one_fault(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**GOOD, "x_qqqq": 1}]), sink, store_schema=False)
    (tmp_path / "m.parquet").write_bytes(sink.getvalue().to_pybytes().replace(b"x_qqqq", b"x_\xff\xfe\xfd\xfc"))
    with pytest.raises(ManifestError, match="UTF-8|utf-8"):
        read_manifest(tmp_path / "m.parquet")


def test_no_rows_missing_files_folders_and_devices_are_one_fault(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "none.parquet")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.parquet", tmp_path / "missing", tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ManifestError) as caught:
            read_manifest(path)
        assert len(caught.value.faults) == 1, path


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/m.parquet", "nosuch://x/y", "", "a::http://x/y"])
def test_a_manifest_uri_that_is_not_allowed_is_a_usage_error(uri: str) -> None:
    with pytest.raises(UsageError, match="expected a path"):
        read_manifest(uri)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([GOOD]).replace_schema_metadata({VERSION_KEY: "2"})
    assert [fault.got for fault in _caught(table)] == ["schema version '2'"]


def test_the_same_manifest_reads_the_same_from_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {**GOOD, "mask_uri": "s3://b/m.png", "boxes": None})
    fsspec.filesystem("memory").pipe_file("/in/m.parquet", Path(path).read_bytes())
    local, by_uri, memory = (read_manifest(uri) for uri in (path, f"file://{path}", "memory://in/m.parquet"))
    assert isinstance(local, Manifest) and local.digest == by_uri.digest == memory.digest
    assert local.jobs == by_uri.jobs
    assert [m.jobs[0].video_uri for m in (local, memory)] == [str(tmp_path / "a.mp4"), "memory://in/a.mp4"]
    other = read_manifest(write(tmp_path / "n.parquet", {**GOOD, "seed": 1}))
    assert other.digest != local.digest
