"""A clip whose mask is too small, rescued by further attempts alone: real Ray, real files, real model classes."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.records import check_records
from vace_batch.ledger.ledger import Ledger
from vace_batch.video.writer import write_clip

ROOT = Path(__file__).parents[2]


def scene(folder: Path) -> Path:
    """Make a disc that moves over a textured ground, and a mask file that covers only the disc's middle."""
    noise = np.random.default_rng(5).uniform(-127, 127, (96, 160, 3)).astype(np.float32)
    ground = 120 + cv2.GaussianBlur(noise, (0, 0), 1.5) * 0.4 + cv2.GaussianBlur(noise, (0, 0), 9) * 3
    y, x = np.mgrid[0:96, 0:160]
    frames, masks = [], []
    for index in range(14):
        near = (x - 40 - 5 * index) ** 2 + (y - 48) ** 2
        frames.append(np.where((near < 18**2)[..., None], (230, 40, 30), ground).clip(0, 255).astype(np.uint8))
        masks.append(np.repeat(((near < 12**2) * 255)[..., None], 3, axis=2).astype(np.uint8))
    write_clip(folder / "clip.mp4", frames, rate=Fraction(25), crf=14)
    write_clip(folder / "mask.mp4", masks, rate=Fraction(25), crf=4)
    row = {"job_id": "disc", "video_uri": "clip.mp4", "task": "removal", "mask_uri": "mask.mp4"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "m.parquet")
    return folder / "m.parquet"


def run(manifest: Path, out: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "vace_batch", "run", str(manifest), "-o", str(out), "--json", *more]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    summary: dict[str, Any] = json.loads(ran.stdout)
    return summary


def test_a_mask_that_is_too_small_is_found_and_mended(
    tmp_path: Path, shared_ray: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in shared_ray.items():
        monkeypatch.setenv(name, value)
    manifest, out = scene(tmp_path), tmp_path / "out"
    [job] = run(manifest, out)["jobs"]
    assert (job["status"], job["verdict"]) == ("done", "fail") and "too small" in " ".join(job["reasons"])
    first = (out / "videos" / "disc.mp4").read_bytes()

    # The same command with leave to try: what was made is not made again.
    before = Ledger(str(out)).keys("done")
    summary = run(manifest, out, "--retries", "2")
    [job] = summary["jobs"]
    assert job["verdict"] == "pass" and summary["verdicts"] == {"pass": 1}
    assert before <= Ledger(str(out)).keys("done")
    assert (out / "videos" / "disc.mp4").read_bytes() != first
    [kept] = (out / "attempts").glob("disc.*.first.mp4")
    assert kept.read_bytes() == first
    [row] = pq.ParquetFile(out / "results" / "status=done" / "clips.parquet").read().to_pylist()
    attempts = json.loads(row["attempts"])
    assert attempts["chosen"] > 0 and attempts["attempts"][attempts["chosen"]]["verdict"] == "pass"
    assert row["retry_gpu_s"] == pytest.approx(sum(one["gpu_s"] for one in attempts["attempts"][1:]), abs=0.01)
    assert run(manifest, out, "--retries", "2") == summary
    assert check_records(out) >= {
        "PrepRecord",
        "WindowRecord",
        "ClipRecord",
        "QualityRecord",
        "AttemptsRecord",
        "UsageRecord",
    }
