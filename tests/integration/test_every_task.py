"""Every task, control and composition through the whole pipeline, as `make tasks` runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vace_batch.video.probe import probe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "task_pictures.py"
LARGER = {"outpainting": (288, 172), "outpainting, left and up": (256, 140), "composition, expand": (288, 172)}
LONGER = {"extension, 0.5 s longer": 33, "composition, expand": 29, "composition, repaint+extension": 29}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_task_is_done(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, SCRIPT, tmp_path, "--run"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.endswith("48 of 48 rows are done\n"), ran.stdout + ran.stderr
    status = [sys.executable, "-m", "vace_batch", "status", str(tmp_path / "out"), "--json"]
    jobs = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)["jobs"]
    for job in jobs:
        assert job["windows"] == 1, job["job_id"]
        info = probe(job["output_uri"])
        assert (info.size.width, info.size.height) == LARGER.get(job["job_id"], (192, 108)), job["job_id"]
        assert info.num_frames == LONGER.get(job["job_id"], 21), job["job_id"]
    assert len({Path(job["output_uri"]).read_bytes() for job in jobs}) >= 45, "equal ones: orders of one composition"
