"""Test every kind of bad input through the manifest reader and the first step; each kind has its own code."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.bad_media import write_broken, write_images, write_lying, write_masks, write_special
from tests.support.bad_rows import BOX, open_rows, outcomes, row
from vace_batch.errors import ManifestError
from vace_batch.options import Options


def test_files_that_are_no_whole_videos(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    expected = {"ok.mp4": "ok", **write_broken(tmp_path, good)}
    assert outcomes(tmp_path, [row(name) for name in expected]) == expected


def test_streams_and_headers_that_lie(tmp_path: Path, good: bytes) -> None:
    expected = write_lying(tmp_path, good)
    names = [*expected, "huge_declared.mp4", "huge_real.mov"]
    found = outcomes(tmp_path, [row(name, boxes=[{**BOX, "x": 0.0, "y": 0.0}]) for name in names])
    # The stream decides, not the container's sample description.
    assert found["huge_declared.mp4"] == "ok"
    # Its decoder refuses the size in the picture's own header before it takes memory.
    assert found["huge_real.mov"] == "too_large"
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


def test_a_row_that_is_expected_to_be_found_fails_where_nothing_is(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    Image.new("L", (64, 48), 0).save(tmp_path / "none.png")
    rows = [row(f"{given}", video_uri="ok.mp4", mask_uri="none.png", expect_found=given) for given in (None, True)]
    assert outcomes(tmp_path, rows) == {"None": "ok", "True": "nothing_found"}
    by_run = [*rows, row("False", video_uri="ok.mp4", mask_uri="none.png", expect_found=False), row("ok.mp4")]
    expected = {"None": "nothing_found", "True": "nothing_found", "False": "ok", "ok.mp4": "ok"}
    (tmp_path / "run").mkdir()
    for name in ("ok.mp4", "none.png"):
        (tmp_path / name).rename(tmp_path / "run" / name)
    assert outcomes(tmp_path / "run", by_run, Options(expect_found=True)) == expected


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
        "mask all": "mask_covers_all",
        "corner": "ok",
        "class": "no_detector",
    }
