"""A run that its budget stops, and the same command with a larger one: real Ray, real files, a stand-in engine."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import Call
from vace_batch.costs import Calibration, Speed
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.schema import SCHEMA
from vace_batch.report.rows import read_clips
from vace_batch.video.writer import write_clip

BOX = {"x": 24.0, "y": 16.0, "width": 24.0, "height": 24.0}


def archive(folder: Path) -> Path:
    """Make three clips of one window each."""
    rows = []
    for number in range(3):
        picture = np.random.default_rng(number).integers(60, 190, (64, 96, 3), np.uint8)
        write_clip(str(folder / f"{number}.mp4"), [picture] * 9, rate=Fraction(25))
        row = {"job_id": f"clip-{number}", "video_uri": f"{number}.mp4", "task": "removal", "background": "off"}
        rows.append({**row, "boxes": [BOX], "seed": number})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "m.parquet")
    return folder / "m.parquet"


def outcome(ran: subprocess.CompletedProcess[str]) -> tuple[int, dict[str, Any]]:
    assert ran.returncode in (0, 3), ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_a_budget_stops_between_windows_and_a_larger_one_goes_on(tmp_path: Path, quick_call: Call) -> None:
    def call(*words: object) -> tuple[int, dict[str, Any]]:
        return outcome(quick_call(*words, "--json"))

    manifest, out = archive(tmp_path), tmp_path / "out"
    rates = tmp_path / "rates.json"
    rates.write_text(Calibration(models={}, other=Speed.sustained(1e3)).model_dump_json())
    run = ("run", manifest, "-o", out, "--quality", "off", "--price", "gpu_hour=3600", "--calibration", rates)

    # A window is expected to take less than this 0.36 ms, and takes more.
    code, summary = call(*run, "--max-gpu-hours", "1e-7")
    assert code == 3 and (summary["done"], summary["pending"], summary["windows"]) == (1, 2, 1)
    ended = [job for job in summary["jobs"] if job["status"] == "done"]
    left = [job for job in summary["jobs"] if job["status"] == "pending"]
    assert len(ended) == 1 and {job["error_code"] for job in left} == {"budget"} and len(left) == 2
    assert "--max-gpu-hours 1e-07" in left[0]["reason"] and "GPU-s spent" in summary["stopped"]
    spent = summary["cost"]["real"]["gpu_s"]
    assert spent > 0.00036 and summary["cost"]["real"]["cost"] == pytest.approx(spent, abs=1e-5)
    assert call("status", out) == (3, summary)
    assert {clip.job_id: clip.status for clip in read_clips(str(out))} == {
        j["job_id"]: j["status"] for j in summary["jobs"]
    }
    before = Ledger(str(out)).keys("done")

    code, again = call(*run, "--max-gpu-hours", "1e-7")
    assert code == 3 and Ledger(str(out)).keys("done", "window") == {k for k in before if k.startswith("window")}

    code, whole = call(*run, "--max-gpu-hours", "1")
    assert code == 0 and (whole["done"], whole["pending"], whole["stopped"]) == (3, 0, None)
    assert before < Ledger(str(out)).keys("done") and len(Ledger(str(out)).keys("done", "window")) == 3
    cost = whole["cost"]
    assert cost["real"]["gpu_s"] > spent and cost["steps"]["prepare"]["real"]["cpu_s"] > 0
    assert all(cost["ratio"][name] is not None for name in ("gpu_s", "cpu_s", "num_bytes"))
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and "artifacts" in path.parts)
    assert cost["real"]["num_bytes"] >= stored
