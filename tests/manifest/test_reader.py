"""The manifest reader: good rows become jobs, and every fault of every row is reported at once."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.manifest.cells import PARSERS, shown
from vace_batch.manifest.job import BoxKey, Dilation, Job, PointKey, Protect, Sampling
from vace_batch.manifest.reader import Manifest, jobs_of, read_manifest
from vace_batch.manifest.schema import SCHEMA, VERSION_KEY
from vace_batch.manifest.uris import UriError, folder_of, relative_uri, resolve_uri

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


def write(path: Path, *rows: dict[str, Any]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def test_every_column_is_a_field_of_job_and_has_a_parser() -> None:
    fields = {field.name for field in dataclasses.fields(Job)} - {"row"}
    assert set(SCHEMA.names) == fields == set(PARSERS)
    assert all(field.metadata[b"description"] for field in SCHEMA)


def test_a_full_row_becomes_a_job() -> None:
    job = job_of(
        boxes=[{**BOX, "frame": 0, "object_id": 1}, {**BOX, "frame": 8, "object_id": 1}, BOX],
        protect={"targets": ["clock"], "boxes": [BOX], "mask_uri": "keep.png"},
        segmenter="sam2_t.pt",
        mask_shape="hull",
        dilate="5%",
        prompt="an empty street",
        negative_prompt="",
        start_s=1.5,
        end_s=2,
        seed=2**63 - 1,
        priority=-3,
        model="tiny",
        sampling={
            "num_inference_steps": 20,
            "flow_shift": 5,
            "mask_rule": "max4",
            "max_frames": 49,
            "overlap_frames": 48,
        },
        output_uri="x/a.mp4",
        x_note="kept by nobody",
    )
    box = BoxKey(x=1.0, y=2.5, width=30.0, height=40.0)
    assert job == Job(
        job_id="a",
        video_uri="/data/a.mp4",
        task="removal",
        boxes=(
            dataclasses.replace(box, frame=0, object_id=1),
            dataclasses.replace(box, frame=8, object_id=1),
            box,
        ),
        protect=Protect(targets=("clock",), boxes=(box,), mask_uri="/data/keep.png"),
        segmenter="sam2_t.pt",
        mask_shape="hull",
        dilate=Dilation(percent=5),
        prompt="an empty street",
        negative_prompt="",
        start_s=1.5,
        end_s=2.0,
        seed=2**63 - 1,
        priority=-3,
        model="tiny",
        sampling=Sampling(num_inference_steps=20, flow_shift=5.0, mask_rule="max4", max_frames=49, overlap_frames=48),
        output_uri="x/a.mp4",
    )


def test_points_and_restyle_rows_become_jobs() -> None:
    assert job_of(boxes=None, points=[{"x": 1, "y": 2}, {"x": 3, "y": 4, "positive": False}]).points == (
        PointKey(x=1.0, y=2.0),
        PointKey(x=3.0, y=4.0, positive=False),
    )
    job = job_of(boxes=None, task="restyle", control="gray", reference_uris=["r.png"], reference_boxes=[BOX])
    assert job.reference_uris == ("/data/r.png",)
    assert job.reference_boxes == (BoxKey(x=1.0, y=2.5, width=30.0, height=40.0),)


def test_nulls_and_absent_columns_have_the_defaults() -> None:
    nulls = {name: None for name in SCHEMA.names if name not in GOOD}
    assert (
        job_of(**nulls)
        == job_of()
        == Job(
            job_id="a", video_uri="/data/a.mp4", task="removal", boxes=(BoxKey(x=1.0, y=2.5, width=30.0, height=40.0),)
        )
    )


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


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"job_id": ""}, "job_id"),
        ({"job_id": "  "}, "job_id"),
        ({"job_id": "."}, "job_id"),
        ({"job_id": ".."}, "job_id"),
        ({"job_id": "nul\0byte"}, "job_id"),
        ({"job_id": "é" * 257}, "job_id"),
        ({"video_uri": ""}, "video_uri"),
        ({"video_uri": "nul\0"}, "video_uri"),
        ({"video_uri": "http://127.0.0.1:9/x.mp4"}, "video_uri"),
        ({"video_uri": "HTTPS://host/x.mp4"}, "video_uri"),
        ({"video_uri": "simplecache::http://host/x.mp4"}, "video_uri"),
        ({"video_uri": "s3://bucket/a::http://host/x"}, "video_uri"),
        ({"video_uri": "s3://bucket/a::file"}, "video_uri"),
        ({"video_uri": "s3://bucket"}, "video_uri"),
        ({"video_uri": "file://host/x.mp4"}, "video_uri"),
        ({"video_uri": "a" * 4097}, "video_uri"),
        ({"task": "romoval"}, "task"),
        ({"task": ""}, "task"),
        ({"boxes": None}, "boxes/mask_uri/targets/points"),
        ({"boxes": []}, "boxes/mask_uri/targets/points"),
        ({"mask_uri": "m.png"}, "boxes/mask_uri/targets/points"),
        ({"targets": ["car"], "segmenter": "sam2_t.pt"}, "boxes/mask_uri/targets/points"),
        ({"boxes": [{**BOX, "x": math.nan}]}, "boxes[0].x"),
        ({"boxes": [BOX, {**BOX, "y": math.inf}]}, "boxes[1].y"),
        ({"boxes": [{**BOX, "width": 0}]}, "boxes[0].width"),
        ({"boxes": [{**BOX, "height": -1}]}, "boxes[0].height"),
        ({"boxes": [{**BOX, "height": math.nan}]}, "boxes[0].height"),
        ({"boxes": [{**BOX, "height": None}]}, "boxes[0].height"),
        ({"boxes": [None, BOX]}, "boxes[0]"),
        ({"boxes": [{**BOX, "frame": -1}]}, "boxes[0].frame"),
        ({"boxes": [{**BOX, "frame": 3}, {**BOX, "frame": 3}]}, "boxes"),
        ({"boxes": [{**BOX, "frame": 3}, {**BOX, "frame": None}]}, "boxes"),
        ({**NONE, "points": [{"x": -1.0, "y": 0.0}]}, "points[0].x"),
        ({**NONE, "points": [{"x": 1.0, "y": math.nan}]}, "points[0].y"),
        ({**NONE, "points": [{"x": 1.0, "y": 1.0, "positive": False}]}, "points"),
        ({**NONE, "mask_uri": ""}, "mask_uri"),
        ({**NONE, "mask_uri": "m.png", "segmenter": "sam2_t.pt"}, "segmenter"),
        ({**NONE, "targets": ["car", ""]}, "targets[1]"),
        ({**NONE, "targets": ["x" * 101]}, "targets[0]"),
        ({**NONE, "targets": ["a\nb"]}, "targets[0]"),
        ({**NONE, "targets": ["car"] * 201}, "targets"),
        ({"protect": {"targets": [""]}}, "protect.targets[0]"),
        ({"protect": {"boxes": [{**BOX, "width": 0}]}}, "protect.boxes[0].width"),
        ({"protect": {"mask_uri": "ftp://x/y"}}, "protect.mask_uri"),
        ({"detector": ""}, "detector"),
        ({"detector": "http://host/w.pt"}, "detector"),
        ({"segmenter": "a\x1bb"}, "segmenter"),
        ({"model": "https://host/m"}, "model"),
        ({"mask_shape": "Hull"}, "mask_shape"),
        ({"dilate": "6"}, "dilate"),
        ({"dilate": "-6px"}, "dilate"),
        ({"dilate": "nanpx"}, "dilate"),
        ({"dilate": "1001px"}, "dilate"),
        ({"dilate": "201%"}, "dilate"),
        ({"dilate": "٣px"}, "dilate"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"negative_prompt": "x\0"}, "negative_prompt"),
        ({"reference_uris": ["r.png"]}, "reference_uris"),
        ({"task": "inpainting", "reference_uris": ["r.png", None]}, "reference_uris[1]"),
        ({"task": "inpainting", "reference_uris": ["r.png"] * 9}, "reference_uris"),
        ({"task": "inpainting", "reference_uris": ["r.png"], "reference_boxes": [BOX, BOX]}, "reference_boxes"),
        ({"task": "inpainting", "reference_boxes": [BOX]}, "reference_boxes"),
        ({"control": "gray"}, "control"),
        ({"task": "restyle", "prompt": "x"}, "control"),
        ({"task": "restyle", "prompt": "x", "control": "sepia"}, "control"),
        ({"task": "restyle", "control": "gray", "prompt": " "}, "prompt"),
        ({**NONE, "task": "restyle", "control": "gray", "prompt": "x", "segmenter": "sam2_t.pt"}, "segmenter"),
        ({"start_s": -1.0}, "start_s"),
        ({"start_s": math.nan}, "start_s"),
        ({"end_s": math.inf}, "end_s"),
        ({"end_s": 0.0}, "end_s"),
        ({"start_s": 2.0, "end_s": 2.0}, "end_s"),
        ({"seed": -1}, "seed"),
        ({"priority": 1001}, "priority"),
        ({"task": "composition", "compose": "extension+repaint"}, "extend"),
        ({"loras": [{"uri": "a.pt"}]}, "loras[0].uri"),
        ({"loras": [{"uri": None}]}, "loras[0].uri"),
        ({"loras": [{"uri": "http://a/b.safetensors"}]}, "loras[0].uri"),
        ({"loras": [{"uri": "a.safetensors", "weight": 4.5}]}, "loras[0].weight"),
        ({"loras": [{"uri": "a.safetensors"}] * 9}, "loras"),
        ({"sampling": {"num_inference_steps": 0}}, "sampling.num_inference_steps"),
        ({"sampling": {"num_inference_steps": 201}}, "sampling.num_inference_steps"),
        ({"sampling": {"guidance_scale": -0.1}}, "sampling.guidance_scale"),
        ({"sampling": {"guidance_scale_2": 31.0}}, "sampling.guidance_scale_2"),
        ({"sampling": {"max_tokens": 63}}, "sampling.max_tokens"),
        ({"sampling": {"boundary_ratio": 875.0}}, "sampling.boundary_ratio"),
        ({"sampling": {"flow_shift": 0.0}}, "sampling.flow_shift"),
        ({"sampling": {"conditioning_scale": math.nan}}, "sampling.conditioning_scale"),
        ({"sampling": {"mask_rule": "max"}}, "sampling.mask_rule"),
        ({"sampling": {"guidance_until": 1.5}}, "sampling.guidance_until"),
        ({"sampling": {"guidance_from": 0.6, "guidance_until": 0.4}}, "sampling.guidance_from"),
        ({"sampling": {"step_cache": 1.0}}, "sampling.step_cache"),
        ({"sampling": {"max_frames": 80}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 1}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 245}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 9, "overlap_frames": 9}}, "sampling.overlap_frames"),
        ({"sampling": {"overlap_frames": -1}}, "sampling.overlap_frames"),
        (
            {"task": "restyle", "control": "depth+pose_body", "prompt": "p", "control_weights": "d.pt"},
            "control_weights",
        ),
        ({"output_uri": "../x.mp4"}, "output_uri"),
        ({"output_uri": "/x.mp4"}, "output_uri"),
        ({"output_uri": "a//x.mp4"}, "output_uri"),
        ({"output_uri": "a\\x.mp4"}, "output_uri"),
        ({"output_uri": "s3://b/x.mp4"}, "output_uri"),
        ({"output_uri": "x"}, "output_uri"),
        ({"output_uri": ""}, "output_uri"),
        ({"job_id": None}, "job_id"),
        ({"task": None}, "task"),
    ],
)
def test_one_thing_wrong_is_one_fault_that_names_its_column(change: dict[str, Any], column: str) -> None:
    good = {**GOOD, "job_id": "good"}
    assert [(fault.row, fault.column) for fault in faults_of(good, {**GOOD, **change}, typed=True)] == [(1, column)]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ([{}, {}], "job_id"),
        ([{"output_uri": "x/a.mp4"}, {"job_id": "b", "output_uri": "X/A.mp4"}], "output_uri"),
        ([{"output_uri": "cafe\u0301.mp4"}, {"job_id": "b", "output_uri": "caf\u00e9.mp4"}], "output_uri"),
        ([{"job_id": "b"}, {"output_uri": "b.mkv"}], "output_uri"),
        ([{"output_uri": "x.mp4"}, {"job_id": "b", "output_uri": "x.mp4/y.mp4"}], "output_uri"),
    ],
)
def test_rows_that_would_write_one_file_are_faults(changes: list[dict[str, Any]], column: str) -> None:
    (fault,) = faults_of(*({**GOOD, **change} for change in changes), typed=True)
    assert (fault.row, fault.column) == (1, column) and "row 0" in fault.expected


def test_ids_that_differ_by_case_or_normalisation_are_not_faults() -> None:
    rows = [
        {**GOOD, "job_id": job_id} for job_id in ("dup", "DUP", "caf\u00e9", "cafe\u0301", "a/b", "../../escape", "CON")
    ]
    rows.append({**GOOD, "job_id": "own", "output_uri": "own.mp4"})
    assert len(jobs_of(pa.Table.from_pylist(rows), "/data")) == 8


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


def test_what_came_is_shown_short_and_without_control_characters() -> None:
    (fault,) = faults_of({**GOOD, "job_id": "\x1b[31mred\n", "mask_shape": "\x1b]0;" + "x" * 10_000})
    line = str(fault)
    assert len(line) < 200 and line.isprintable() and r"\x1b" in line
    assert len(shown(["y" * 1000] * 1000)) <= 60


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


@pytest.mark.parametrize(
    ("uri", "folder", "absolute"),
    [
        ("v/a.mp4", "/in", "/in/v/a.mp4"),
        ("../a.mp4", "/in", "/a.mp4"),
        ("/x/a.mp4", "/in", "/x/a.mp4"),
        ("file:///x/a.mp4", "/in", "/x/a.mp4"),
        ("file:proto.mp4", "/in", "/in/file:proto.mp4"),
        ("pct%2F..%2Fup.mp4", "/in", "/in/pct%2F..%2Fup.mp4"),
        ("star*[1]?.mp4", "/in", "/in/star*[1]?.mp4"),
        (" two  spaces .mp4", "/in", "/in/ two  spaces .mp4"),
        ("new\nline.mp4", "/in", "/in/new\nline.mp4"),
        ("s3://b/k/../a.mp4", "/in", "s3://b/k/../a.mp4"),
        ("v/a.mp4", "s3://b/in", "s3://b/in/v/a.mp4"),
        ("../v/a%20b.mp4", "s3://b/in", "s3://b/v/a%20b.mp4"),
        ("a.mp4", "s3://b", "s3://b/a.mp4"),
        ("/x/a.mp4", "s3://b/in", "/x/a.mp4"),
        ("a.mp4", "memory://in", "memory://in/a.mp4"),
    ],
)
def test_relative_uris_start_at_the_manifest_and_nothing_is_decoded(uri: str, folder: str, absolute: str) -> None:
    assert resolve_uri(uri, folder) == absolute
    assert resolve_uri(relative_uri(absolute, folder), folder) == absolute


@pytest.mark.parametrize("uri", ["../../x", "../../../b2/x", "a::http://h/x", "a::file"])
def test_relative_uris_cannot_leave_the_bucket(uri: str) -> None:
    with pytest.raises(UriError):
        resolve_uri(uri, "s3://b/in")


def test_folder_of() -> None:
    assert [folder_of(uri) for uri in ("/a/m", "file:///a/m", "s3://b/m", "s3://b/c/m")] == [
        "/a",
        "/a",
        "s3://b",
        "s3://b/c",
    ]
