"""A whole run with manifest, videos and output in an S3 bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import s3_server
from vace_batch.ledger.ledger import Ledger
from vace_batch.storage import files as storage
from vace_batch.video.shots import scan
from vace_batch.video.writer import write_clip

ROOT = Path(__file__).parents[2]
BOX = {"x": 20.0, "y": 16.0, "width": 24.0, "height": 20.0}


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vace_batch", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_manifest_videos_and_output_in_a_bucket(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:96]
    frames = (np.stack([x * 2, y * 3, np.full_like(x, 60 + t)], axis=-1).astype(np.uint8) for t in range(9))
    write_clip(tmp_path / "clip.mp4", frames, rate=Fraction(25), tone_hz=440)
    rows = [
        {"job_id": "good", "video_uri": "clip.mp4", "task": "removal", "boxes": [BOX], "background": "off"},
        {"job_id": "gone", "video_uri": "gone.mp4", "task": "removal", "boxes": [BOX]},
        {"job_id": "another bucket", "video_uri": "s3://elsewhere/clip.mp4", "task": "removal", "boxes": [BOX]},
        {"job_id": "here", "video_uri": str(tmp_path / "clip.mp4"), "task": "removal", "boxes": [BOX]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    with s3_server.moto(tmp_path) as endpoint, s3_server.bucket(endpoint) as uri:
        for name in ("clip.mp4", "m.parquet"):
            storage.publish(storage.join(uri, "in", name), (tmp_path / name).read_bytes())
        out = storage.join(uri, "out")
        ran = call("run", storage.join(uri, "in", "m.parquet"), "-o", out, "--json")
        assert ran.returncode == 1, ran.stderr
        jobs = {job["job_id"]: job for job in json.loads(ran.stdout)["jobs"]}
        assert {name: job["error_code"] or job["status"] for name, job in jobs.items()} == {
            "good": "done",
            "gone": "not_found",
            "another bucket": "not_allowed",
            "here": "not_allowed",
        }
        assert jobs["good"]["output_uri"] == f"{out}/videos/good.mp4"
        with storage.local_path(jobs["good"]["output_uri"]) as path:
            assert scan(path).num_frames == 9
        assert len(Ledger(out).keys("done", "window")) == 1
        shown = call("status", out, "--json")
        assert shown.returncode == 1 and json.loads(shown.stdout) == json.loads(ran.stdout)
        assert call("gc", out, "--grace-hours", "0").stdout.startswith("removed 0 files")
