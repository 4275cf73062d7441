"""Run the command line in a process of its own, on clips and manifests made for it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vace_batch.video.writer import write_clip

RUN = [sys.executable, "-m", "vace_batch"]
RUN_WITH_STAND_IN = [sys.executable, "-m", "tests.support.stand_in_engine"]
ROOT = Path(__file__).parents[2]
BOX = {"x": 20, "y": 16, "width": 24, "height": 20}


Call = Callable[..., subprocess.CompletedProcess[str]]


def call(
    *arguments: str | Path, timeout_s: float = 600, program: Sequence[str] = RUN
) -> subprocess.CompletedProcess[str]:
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def clip(path: Path, num_frames: int, shade: int = 0) -> Path:
    y, x = np.mgrid[0:64, 0:96]
    frames = (
        np.stack([x * 2 + shade, y * 3, np.full_like(x, 60 + index)], axis=-1).astype(np.uint8)
        for index in range(num_frames)
    )
    write_clip(path, frames, rate=Fraction(25), tone_hz=440)
    return path


def manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def removal(job_id: str, video: Path | str) -> dict[str, Any]:
    return {"job_id": job_id, "video_uri": str(video), "task": "removal", "boxes": [BOX], "background": "off"}


def outputs(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "videos").iterdir())}


def stamps(out: Path) -> dict[str, int]:
    """Return every generated window's artifact and the time of its writing."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("artifacts/*/window-*/*")}


def wait_for(happened: Any, driver: subprocess.Popen[bytes], limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        if driver.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"waited in vain; the driver's exit code is {driver.poll()}")
        time.sleep(0.05)
