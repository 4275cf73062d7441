"""`validate` tells, without opening a video, which rows a run with the same options would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vace_batch.cli.app import app
from vace_batch.manifest.schema import SCHEMA

BOXES = [{"frame": 0, "x": 1.0, "y": 1.0, "width": 9.0, "height": 9.0}]
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "targets": ({"targets": ["car"]}, "no_detector: targets need weights: give --detector FILE, or name them in"),
    "protect": ({"boxes": BOXES, "protect": {"targets": ["car"]}}, "no_detector: targets need weights"),
    "points": ({"points": [{"frame": 0, "x": 1.0, "y": 1.0}]}, "no_segmenter: points need weights: give --segmenter"),
    "depth": (
        {"task": "restyle", "control": "depth", "prompt": "x"},
        "no_control_weights: control depth needs weights: give --depth FILE, or name them in the column",
    ),
    "detector": ({"targets": ["car"], "detector": "/etc/passwd"}, "weights_not_allowed: weights '/etc/passwd'"),
    "model": ({"boxes": BOXES, "model": "other/model"}, "model_not_allowed: model: 'other/model' is neither"),
    "lora": ({"boxes": BOXES, "loras": [{"uri": "x.safetensors"}]}, "weights_not_allowed: loras: 'x.safetensors' is"),
    "place": ({"boxes": BOXES, "video_uri": "/etc/passwd"}, "not_allowed: video_uri: /etc/passwd lies outside of"),
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    full = [{"task": "removal", "video_uri": "none.mp4", **row} for row in rows]
    names = {name for row in full for name in row}
    schema = pa.schema([SCHEMA.field(name) for name in SCHEMA.names if name in names])
    pq.write_table(pa.Table.from_pylist(full, schema=schema), path)
    return str(path)


def test_rows_that_a_run_would_refuse_are_named_at_once(tmp_path: Path) -> None:
    rows = [{"job_id": name, **row} for name, (row, _) in CASES.items()]
    path = write(tmp_path / "m.parquet", [*rows, {"job_id": "good", "boxes": BOXES}])
    result = CliRunner().invoke(app, ["validate", path])
    lines = result.stderr.splitlines()
    assert result.exit_code == 1 and len(lines) == len(CASES)
    for number, (line, (name, (_, reason))) in enumerate(zip(lines, CASES.items(), strict=True)):
        assert line.startswith(f"row {number} ({name}): {reason}")
    assert "9 rows, 8 would fail with these options" in result.stdout


def test_files_that_are_missing_empty_or_too_large_are_named(tmp_path: Path) -> None:
    for name, content in {"good.mp4": b"?", "empty.mp4": b"", "large.mp4": b"?" * 9000}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "masks").mkdir()
    names = ["good", "gone", "empty", "large"]
    rows = [{"job_id": name, "video_uri": f"{name}.mp4", "mask_uri": "masks"} for name in names]
    path = write(tmp_path / "m.parquet", [*rows, {"job_id": "mask", "video_uri": "good.mp4", "mask_uri": "no.mkv"}])
    assert CliRunner().invoke(app, ["validate", path]).exit_code == 0
    result = CliRunner().invoke(app, ["validate", path, "--files", "--limit", "max_bytes=5000"])
    assert result.exit_code == 1
    limit = "has 9,000 bytes, the limit is 5,000; --limit max_bytes=N sets another"
    assert result.stderr.splitlines() == [
        f"row 1 (gone): not_found: video_uri: no such file: {tmp_path}/gone.mp4",
        f"row 2 (empty): empty_file: video_uri: {tmp_path}/empty.mp4 is empty",
        f"row 3 (large): too_large: video_uri: {tmp_path}/large.mp4 {limit}",
        f"row 4 (mask): not_found: mask_uri: no such file: {tmp_path}/no.mkv",
    ]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"targets": ["car"]}, ["--detector", "demo"]),
        ({"targets": ["car"], "detector": "demo"}, []),
        ({"targets": ["@text"]}, []),
        ({"boxes": BOXES, "segmenter": "nowhere.pt"}, []),
        ({"boxes": BOXES, "video_uri": "/elsewhere/a.mp4"}, ["--allow-root", "/elsewhere"]),
        ({"boxes": BOXES, "loras": [{"uri": "x.safetensors"}]}, ["--weights", "/weights"]),
    ],
)
def test_the_options_of_the_run_count(tmp_path: Path, row: dict[str, Any], options: list[str]) -> None:
    path = write(tmp_path / "m.parquet", [{"job_id": "a", **row}])
    result = CliRunner().invoke(app, ["validate", path, *options])
    assert (result.exit_code, result.stderr) == (0, ""), result.stdout
    assert "1 rows, no faults (1 removal)" in result.stdout
