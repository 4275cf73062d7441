"""Every kind of bad input, through the manifest reader and the first step: a word of its own for each."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.bad_media import good_video, write_broken, write_images, write_lying, write_masks, write_special
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.cluster.units import Failure
from vace_batch.errors import ClipError, ManifestError
from vace_batch.manifest.reader import read_manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import MediaLimits, Options
from vace_batch.steps.prepare import prepare

BOX = {"x": 8.0, "y": 8.0, "width": 16.0, "height": 16.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return good_video(tmp_path_factory.mktemp("good"))


def outcomes(folder: Path, rows: list[Mapping[str, Any]], options: Options | None = None) -> dict[str, str]:
    """Job id to "ok" or the failure's code, the reason checked for a path; one row's failure leaves the others be."""
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


def test_files_that_are_no_whole_videos(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    expected = {"ok.mp4": "ok", **write_broken(tmp_path, good)}
    assert outcomes(tmp_path, [row(name) for name in expected]) == expected


def test_streams_and_headers_that_lie(tmp_path: Path, good: bytes) -> None:
    expected = write_lying(tmp_path, good)
    names = [*expected, "huge_declared.mp4", "huge_real.mov"]
    found = outcomes(tmp_path, [row(name, boxes=[{**BOX, "x": 0.0, "y": 0.0}]) for name in names])
    # The stream decides, or it is refused; nothing that large is ever held.
    assert found["huge_declared.mp4"] in ("ok", "too_large")
    # Its decoder refuses the size in the picture's own header before it takes memory.
    assert found["huge_real.mov"] in ("too_large", "unreadable_video")
    assert {name: found[name] for name in expected} == expected
    images = write_images(tmp_path)
    assert outcomes(tmp_path, [row(name) for name in images]) == images


def test_what_is_no_file(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    (tmp_path / "link.mp4").symlink_to("ok.mp4")
    expected = {"ok.mp4": "ok", "link.mp4": "ok", "socket.mp4": "not_a_file", **write_special(tmp_path)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.mp4"))
        assert outcomes(tmp_path, [row(name) for name in expected]) == expected


def test_only_what_was_given_is_read(tmp_path: Path, good: bytes) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside, outside, inside / "masks"):
        folder.mkdir()
    (inside / "ok.mp4").write_bytes(good)
    (outside / "video.mp4").write_bytes(good)
    (inside / "away.mp4").symlink_to(outside / "video.mp4")
    (inside / "tree").symlink_to(outside)
    (tmp_path / "in-too").mkdir()
    (tmp_path / "in-too" / "video.mp4").write_bytes(good)
    (inside / "masks" / "0.png").symlink_to("/etc/passwd")
    places = {
        "through the parent": "../in/ok.mp4",
        "absolute": str(inside / "ok.mp4"),
        "file://": f"file://{inside}/ok.mp4",
        "/etc/passwd": "/etc/passwd",
        "/dev/zero": "/dev/zero",
        "/dev/stdin": "/dev/stdin",
        "/proc": "/proc/self/environ",
        "parent": "../outside/video.mp4",
        "link": "away.mp4",
        "linked folder": "tree/video.mp4",
        "longer name": "../in-too/video.mp4",
        "bucket": "s3://bucket/video.mp4",
    }
    rows: list[Mapping[str, Any]] = [row(name, video_uri=uri) for name, uri in places.items()]
    rows += [
        row("mask", video_uri="ok.mp4", mask_uri="/etc/shadow"),
        row("mask link", video_uri="ok.mp4", mask_uri="masks"),
    ]
    found = outcomes(inside, rows)
    good_ones = {"through the parent", "absolute", "file://"}
    assert {name for name, code in found.items() if code == "ok"} == good_ones
    assert {code for name, code in found.items() if name not in good_ones} == {"not_allowed"}
    allowed = outcomes(inside, rows, Options(allow_roots=(str(outside),)))
    # What was refused is tried anew once it is allowed, without a retry.
    assert {name for name, code in allowed.items() if code == "ok"} == good_ones | {"parent", "link", "linked folder"}


def test_a_model_of_a_row_is_the_run_s_or_below_a_given_folder(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    rows = [row("mine", video_uri="ok.mp4", model="tiny"), row("hub", video_uri="ok.mp4", model="somebody/model")]
    rows.append(row("path", video_uri="ok.mp4", model="/etc"))
    assert outcomes(tmp_path, rows) == {"mine": "ok", "hub": "model_not_allowed", "path": "model_not_allowed"}


def test_limits_hold_before_decoding(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    for change, code in (
        ({"max_bytes": 1000}, "too_large"),
        ({"max_pixels": 64 * 48 - 1}, "too_large"),
        ({"max_duration_s": 0.9}, "too_long"),
        ({"max_frames": 23}, "too_long"),
        ({"max_streams": 1}, "too_many_streams"),
    ):
        folder = tmp_path / next(iter(change))
        folder.mkdir()
        (folder / "ok.mp4").write_bytes(good)
        assert outcomes(folder, [row("ok.mp4")], Options(media=MediaLimits.model_validate(change))) == {"ok.mp4": code}


NAMES = [
    "unié 日本語 🎬.mp4",
    " two  spaces .mp4",
    "new\nline.mp4",
    "pct%2F..%2Fup.mp4",
    "-i.mp4",
    "q'u\"o;$(touch pwned)&.mp4",
    ".hidden.mp4",
    "UPPER.MP4",
    "no_extension",
    "star*[1]?.mp4",
    "fmt_%d_{id}.mp4",
    "L" * 240 + ".mp4",
    "file:proto.mp4",
    "caf\u00e9.mp4",
    "cafe\u0301.mp4",
    "clip.mp4",
    "clip.mov",
    "Clip2.mp4",
    "=cmd|' C calc'!A0.mp4",
    "<script>alert(1)<",
]


def test_odd_names_are_names(tmp_path: Path, good: bytes) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(good)
    assert outcomes(tmp_path, [row(name) for name in NAMES]) == dict.fromkeys(NAMES, "ok")
    works = open_rows(tmp_path, [row(name) for name in NAMES]).works
    outputs = [work.output for work in works]
    assert len({output.casefold() for output in outputs}) == len(NAMES)
    assert all(output.startswith("videos/") and output.count("/") == 1 for output in outputs)
    assert all(len(output.encode()) <= 255 for output in outputs) and not list(tmp_path.glob("**/pwned"))


def test_odd_ids_stay_inside(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    ids = ["../../escape", "/tmp/abs_escape", "a/b", "x" * 300, "CON", " id with space ", "same clip", "SAME clip"]
    batch = open_rows(tmp_path, [row(job_id, video_uri="ok.mp4") for job_id in ids])
    for work in batch.works:
        assert Path(work.output).parts[0] == "videos" and len(Path(work.output).parts) == 2
    assert len({work.output.casefold() for work in batch.works}) == len(ids)


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([row("")], ["job_id"]),
        ([row(".")], ["job_id"]),
        ([row("..")], ["job_id"]),
        ([row("nul\0byte")], ["job_id", "video_uri"]),
        ([row("a", video_uri="http://127.0.0.1:9/x.mp4")], ["video_uri"]),
        ([row("a", video_uri="https://user:hunter2@host/x.mp4")], ["video_uri"]),
        ([row("a", video_uri="s3://AKIA:hunter2@bucket/x.mp4")], ["video_uri"]),
        ([row("a", video_uri="memory://x::file:///etc/passwd")], ["video_uri"]),
        ([row("dup"), row("dup", video_uri="b")], ["job_id"]),
        ([row("a", boxes=[{**BOX, "width": -5.0}])], ["boxes"]),
        ([row("a", boxes=[{**BOX, "x": float("nan")}])], ["boxes"]),
        ([row("a", boxes=[{**BOX, "height": 0.0}])], ["boxes"]),
        ([row("a", boxes=None)], ["boxes"]),
        ([row("a", boxes=None, targets=["x" * 5000])], ["targets"]),
        ([row("a", boxes=None, targets="car")], ["targets"]),
        ([row("a", seed="one")], ["seed"]),
        ([row("a", sampling={"num_inference_steps": 0})], ["sampling"]),
        ([row("a", sampling={"num_inference_steps": 10**9})], ["sampling"]),
        ([row("a", promt="a slip")], ["promt"]),
        ([row("a", prompt="x" * 1_000_000)], ["prompt"]),
    ],
)
def test_bad_rows_stop_before_any_work(tmp_path: Path, rows: list[Mapping[str, Any]], lines: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        open_rows(tmp_path, rows)
    text = str(caught.value)
    assert all(any(line in (fault.column or "") for fault in caught.value.faults) for line in lines), text
    assert "hunter2" not in text and max(map(len, text.splitlines())) < 400
    assert not (tmp_path / "out").exists()


def test_masks_and_boxes_that_do_not_fit(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    masks = write_masks(tmp_path)
    Image.new("L", (64, 48), 255).save(tmp_path / "all.png")
    rows = [
        row("mask size", video_uri="ok.mp4", mask_uri="small.mp4"),
        row("mask length", video_uri="ok.mp4", mask_uri="short.mp4"),
        row("mask all", video_uri="ok.mp4", mask_uri="all.png"),
        row("outside", video_uri="ok.mp4", boxes=[{**BOX, "x": 900.0}]),
        row("corner", video_uri="ok.mp4", boxes=[{"x": 0.0, "y": 0.0, "width": 64.0, "height": 48.0}]),
        row("class", video_uri="ok.mp4", boxes=None, targets=["no such thing"]),
    ]
    found = outcomes(tmp_path, rows)
    assert found.pop("outside") not in ("ok", "internal_error")
    assert found == {
        "mask size": masks["small.mp4"],
        "mask length": masks["short.mp4"],
        "mask all": "ok",
        "corner": "ok",
        "class": "no_detector",
    }


def test_a_refused_row_is_not_looked_at(tmp_path: Path, good: bytes) -> None:
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(good)
    (tmp_path / "in").mkdir()
    batch = open_rows(tmp_path / "in", [row("a", video_uri=str(outside))])
    [work] = batch.works
    assert work.refused is not None and work.fingerprints == {}
    # What was refused when it was planned stays so: it has no identity to be done under.
    allowed = replace(work, roots=replace(work.roots, local=(str(tmp_path),)))
    with pytest.raises(ClipError, match="not_allowed"):
        prepare(allowed, MaskModels())
    # A link that is changed after the run began is followed anew by each step.
    assert prepare(replace(allowed, refused=None, fingerprints={"video_uri": "1"}), MaskModels()).num_frames == 24
