"""The metrics of a run at a real Ray's endpoint, under the names that infra/observability asks for."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.infra.versions import ROOT
from tests.support.s3_server import free_ports


def test_a_run_is_seen_at_rays_metrics_endpoint() -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.support.metrics_on_ray", str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ray_vace_batch_running": 1,
        "ray_vace_batch_windows_total done": 1,
        "ray_vace_batch_windows_total failed": 1,
        "ray_vace_batch_frames_total": 33,
        "ray_vace_batch_gpu_actors": 1,
        "ray_vace_batch_gpu_busy_seconds_total": 3.5,
        "ray_vace_batch_queue_bytes": 700,
        "ray_vace_batch_attempts_total generate": 2,
        "ray_vace_batch_clips_total failed": 2,
        "ray_vace_batch_verdicts_total review": 1,
        "ray_vace_batch_last_commit_timestamp_seconds": 1234,
    }
