"""Test that folders, bucket prefixes and CSVs become manifests that the reader accepts."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vace_batch.errors import ManifestError, UsageError
from vace_batch.manifest.builder import build_manifest, job_ids, parse_defaults
from vace_batch.manifest.job import BoxKey, Sampling
from vace_batch.manifest.reader import read_manifest
from vace_batch.manifest.schema import VERSION_KEY


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def test_a_folder_becomes_sorted_rows_with_relative_uris(tmp_path: Path) -> None:
    touch(
        tmp_path, "v/b.MP4", "v/a.mov", "v/deep/er/c.mkv", "v/notes.txt", "v/._a.mov", "v/.trash/d.mp4", "v/no_suffix"
    )
    (tmp_path / "v/loop").symlink_to(tmp_path / "v")
    (tmp_path / "v/folder.mp4").mkdir()
    out = tmp_path / "m.parquet"
    assert build_manifest(str(tmp_path / "v"), str(out), task="removal", targets=["car"], dilate="5%") == 3
    table = pq.read_table(out)
    assert table.column("video_uri").to_pylist() == ["v/a.mov", "v/b.MP4", "v/deep/er/c.mkv"]
    assert table.schema.metadata[VERSION_KEY.encode()] == b"1"
    assert table.schema.field("dilate").metadata[b"unit"] == b"px, % or tokens"
    jobs = read_manifest(out).jobs
    assert [job.job_id for job in jobs] == ["a", "b", "deep/er/c"]
    assert jobs[0].video_uri == str(tmp_path / "v/a.mov") and jobs[0].targets == ("car",)
    assert os.listdir(tmp_path) == ["v", "m.parquet"] or sorted(os.listdir(tmp_path)) == ["m.parquet", "v"]


def test_odd_file_names_survive(tmp_path: Path) -> None:
    names = [
        " two  spaces .mp4",
        "new\nline.mp4",
        "pct%2F..%2Fup.mp4",
        "-i.mp4",
        "file:proto.mp4",
        "star*[1]?.mp4",
        "日本.mp4",
    ]
    touch(tmp_path, *names)
    build_manifest(str(tmp_path), str(tmp_path / "m.parquet"), task="removal", targets=["car"])
    assert {job.video_uri for job in read_manifest(tmp_path / "m.parquet").jobs} == {str(tmp_path / n) for n in names}


def test_a_file_name_that_is_no_utf8_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"video")
    with pytest.raises(ManifestError, match=r"udce9.*UTF-8"):
        build_manifest(str(tmp_path), str(tmp_path / "m.parquet"), task="removal", targets=["car"])


def test_a_bucket_prefix_becomes_rows(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    for name in ("/bucket/in/a.mp4", "/bucket/in/x/b.mov", "/bucket/inner/c.mp4"):
        fs.pipe_file(name, b"video")
    assert build_manifest("memory://bucket/in/", "memory://bucket/m.parquet", task="removal", targets=["car"]) == 2
    jobs = read_manifest("memory://bucket/m.parquet").jobs
    assert [(job.job_id, job.video_uri) for job in jobs] == [
        ("a", "memory://bucket/in/a.mp4"),
        ("x/b", "memory://bucket/in/x/b.mov"),
    ]
    build_manifest("memory://bucket/in", str(tmp_path / "m.parquet"), task="removal", targets=["car"])
    assert [job.video_uri for job in read_manifest(tmp_path / "m.parquet").jobs] == [job.video_uri for job in jobs]


def test_nothing_to_build_from_is_a_usage_error(tmp_path: Path) -> None:
    out = str(tmp_path / "m.parquet")
    for prefix in (str(tmp_path), str(tmp_path / "missing"), "http://host/x", str(tmp_path / "missing.csv")):
        with pytest.raises(UsageError):
            build_manifest(prefix, out, task="removal", targets=["car"])
    assert not os.path.exists(out)


def test_bad_defaults_are_refused_once_and_nothing_is_written(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    out = tmp_path / "m.parquet"
    with pytest.raises(ManifestError) as caught:
        build_manifest(str(tmp_path), str(out), task="removal", priority=5000)
    assert [fault.column for fault in caught.value.faults] == ["boxes/mask_uri/targets/points", "priority"]
    for name, value in {
        "targets": "car",
        "sampling": {"stepz": 1},
        "loras": ["x"],
        "seed": "7",
        "boxes": [{"x": "a"}],
    }.items():
        with pytest.raises(UsageError, match=name):
            build_manifest(str(tmp_path), str(out), task="removal", **{name: value})
    assert not out.exists()


CSV = """\
job_id,video_uri,task,targets,boxes,negative_prompt,seed,end_s,sampling,x_note
a,v/a.mp4,,"[""car"", ""dog""]",,"",3,1.5,"{""max_frames"": 49}",n
b,../b.mp4,inpainting,,"[{""x"": 1, ""y"": 2, ""width"": 3.5, ""height"": 4}]",,,,,
c,s3://x/c.mp4,,person,,"two
lines",,,,
"""


@pytest.mark.parametrize("text", [CSV, "\ufeff" + CSV.replace("\n", "\r\n"), CSV.replace("\nb,", "\n\nb,") + "\n\n"])
def test_a_csv_becomes_rows_and_its_uris_hold_from_the_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/rows.csv").write_bytes(text.encode())
    out = tmp_path / "out/m.parquet"
    assert build_manifest(str(tmp_path / "in/rows.csv"), str(out), task="removal", priority=2) == 3
    a, b, c = read_manifest(out).jobs
    assert (a.task, a.targets, a.negative_prompt, a.seed, a.end_s) == ("removal", ("car", "dog"), "", 3, 1.5)
    assert (a.sampling, a.priority) == (Sampling(max_frames=49), 2)
    assert (b.task, b.boxes, b.negative_prompt) == ("inpainting", (BoxKey(x=1.0, y=2.0, width=3.5, height=4.0),), None)
    assert (c.targets, c.video_uri, " ".join((c.negative_prompt or "").split())) == (
        ("person",),
        "s3://x/c.mp4",
        "two lines",
    )
    assert (a.video_uri, b.video_uri) == (str(tmp_path / "in/v/a.mp4"), str(tmp_path / "b.mp4"))
    assert pq.read_table(out).column("x_note").to_pylist()[0] == "n"


def test_every_file_that_a_csv_names_holds_from_the_manifest(tmp_path: Path) -> None:
    """Every column that `Job` declares as a file is rewritten, including files in structs."""
    (tmp_path / "in").mkdir()
    row = {
        "job_id": "a",
        "video_uri": "v.mp4",
        "task": "inpainting",
        "mask_uri": "m.png",
        "protect": json.dumps({"mask_uri": "p.png"}),
        "reference_uris": json.dumps(["r.png"]),
        "reference_mask_uris": json.dumps(["s.png"]),
    }
    with (tmp_path / "in/rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    build_manifest(str(tmp_path / "in/rows.csv"), str(tmp_path / "m.parquet"))
    [job] = read_manifest(tmp_path / "m.parquet").jobs
    uris = {file.uri.removeprefix(f"{tmp_path}/in/") for file in job.files()}
    assert uris == {"v.mp4", "m.png", "p.png", "r.png", "s.png"}


def test_every_bad_cell_of_a_csv_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [
        "a,a.mp4,removal,x,[{,nan?",
        'b,b.mp4,removal,1e3,"[{""x"": 1, ""wid"": 2}]",',
        "c,c.mp4,removal,99999999999999999999,[],",
    ]
    duplicate = 'd,d.mp4,removal,,"[{""x"": 1, ""x"": 2, ""y"": 1, ""width"": 1, ""height"": 1}]",1'
    path.write_text("\n".join(["job_id,video_uri,task,seed,boxes,start_s", *rows, duplicate]))
    with pytest.raises(ManifestError) as caught:
        build_manifest(str(path), str(tmp_path / "m.parquet"))
    assert [(fault.row, fault.column) for fault in caught.value.faults] == [
        (0, "boxes"),
        (0, "seed"),
        (0, "start_s"),
        (1, "boxes"),
        (1, "seed"),
        (2, "seed"),
        (3, "boxes"),
    ]
    assert os.listdir(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"job_id,video_uri,task\n",
        b"job_id,video_uri,task\na,b\n",
        b'job_id,video_uri,task\na,"b,c\n',
        b"job_id,video_uri,task\ncaf\xe9,a.mp4,removal\n",
        b"job_id,job_id,video_uri,task,targets\na,a,b,removal,car\n",
        b"job_id,video_uri,task,targets,promt\na,b,removal,car,x\n",
        b"job_id,task,targets\na,removal,car\n",
        b"job_id,video_uri,task,targets\na,http://h/x,removal,car\n",
    ],
)
def test_a_broken_csv_is_a_manifest_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(ManifestError):
        build_manifest(str(tmp_path / "rows.csv"), str(tmp_path / "m.parquet"))


def test_an_integer_as_pandas_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "job_id,video_uri,task,mask_uri,seed\na,a.mp4,removal,m.png,7.0\nb,b.mp4,removal,m.png,\n"
    )
    build_manifest(str(tmp_path / "m.csv"), str(tmp_path / "m.parquet"))
    assert [job.seed for job in read_manifest(tmp_path / "m.parquet").jobs] == [7, None]
    (tmp_path / "m.csv").write_text("job_id,video_uri,task,mask_uri,seed\na,a.mp4,removal,m.png,7.5\n")
    with pytest.raises(ManifestError, match=r"line 2 \(a\), column seed: got '7.5', expected a whole number"):
        build_manifest(str(tmp_path / "m.csv"), str(tmp_path / "m.parquet"))


def test_a_long_cell_fits(tmp_path: Path) -> None:
    boxes = [{"frame": i, "x": 1.5, "y": 2, "width": 3, "height": 4} for i in range(30_000)]
    cell = json.dumps(boxes).replace('"', '""')
    (tmp_path / "rows.csv").write_text(f'job_id,video_uri,task,boxes\na,a.mp4,removal,"{cell}"\n')
    build_manifest(str(tmp_path / "rows.csv"), str(tmp_path / "m.parquet"))
    assert len(read_manifest(tmp_path / "m.parquet").jobs[0].boxes) == 30_000


def test_a_written_manifest_replaces_the_old_one_whole(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4")
    out = tmp_path / "m.parquet"
    for targets in (["car"], ["dog"]):
        build_manifest(str(tmp_path / "v"), str(out), task="removal", targets=targets)
        assert read_manifest(out).jobs[0].targets == tuple(targets)
    assert pa.types.is_string(pq.read_schema(out).field("job_id").type)


@given(st.lists(st.from_regex(r"([abé ]|\.[a ]){1,3}(/[ab.]a)?\.(mp4|mov|mkv\.mp4)", fullmatch=True), unique=True))
def test_ids_of_any_listing_are_unique_and_legal(names: list[str]) -> None:
    ids = job_ids(names)
    assert len(set(ids)) == len(names) == len(ids)
    assert all(job_id.strip() and job_id not in (".", "..") for job_id in ids)


def test_equal_stems_keep_their_suffixes_and_long_ones_are_cut() -> None:
    assert job_ids(["a/clip.mov", "a/clip.mp4", "b.mp4"]) == ["a/clip.mov", "a/clip.mp4", "b"]
    first, second, third = job_ids(["c.mov", "c.mp4", "c.mp4.mkv"])
    assert (first, third) == ("c.mov", "c.mp4") and second.startswith("c.mp4~")
    (long,) = job_ids(["é" * 300 + ".mp4"])
    assert len(long.encode()) <= 512


def test_defaults_are_written_as_in_a_csv() -> None:
    defaults = parse_defaults(
        ["targets=person", "dilate=5%", 'boxes=[{"x": 1, "y": 2, "width": 3, "height": 4}]', "seed=7"]
    )
    boxes = [{"x": 1, "y": 2, "width": 3, "height": 4}]
    assert defaults == {"targets": ["person"], "dilate": "5%", "boxes": boxes, "seed": 7}
    for wrong in ("targets", "tragets=person", "seed=many", "boxes=[1]", "task=removal"):
        with pytest.raises(UsageError, match="expected"):
            parse_defaults([wrong])
