"""The Prefect server dies while a flow runs the real pipeline; the flow or the next one finishes the batch.

    python -m tests.chaos.prefect_server FOLDER

The server is a process of its own with a database of its own; it is killed once the first window is recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.s3_server import free_ports, running
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.summary import summarise
from vace_batch.video.writer import write_clip

ROOT = Path(__file__).parents[2]
CLIPS, FRAMES = 4, 40
PATIENCE_S = 900.0
BOX = {"x": 20.0, "y": 16.0, "width": 24.0, "height": 20.0}


def kill_the_server(folder: Path) -> dict[str, Any]:
    """Kill the server in the middle of a flow; check that the flow, or the next flow with a new server, ended right.

    Returns the fault's row of the table.

    Raises:
        AssertionError: a window is missing or was made twice, or an output is not that of an undisturbed run.
    """
    manifest, out = _manifest(folder), folder / "out"
    ledger = Ledger(str(out))
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | home
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    with running(command, folder / "server.log", port, PATIENCE_S, environment) as server:
        api = environment | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        flow = _flow(manifest, out, api, folder / "flow.log")
        try:
            _wait_for_a_window(ledger, flow)
            server.kill()
            server.wait()
            died = time.monotonic()
            ended = flow.wait(PATIENCE_S)
        finally:
            flow.kill()
    done = summarise(str(out)).done
    print(f"the flow ended with {ended}, {done} of {CLIPS} clips were done", file=sys.stderr, flush=True)
    if done < CLIPS:
        assert _flow(manifest, out, environment, folder / "again.log").wait(PATIENCE_S) == 0
    summary = summarise(str(out))
    recover_s = time.monotonic() - died
    assert (summary.planned, summary.done, summary.pending) == (CLIPS, CLIPS, 0), summary
    clean = folder / "clean"
    assert _flow(manifest, clean, environment, folder / "clean.log").wait(PATIENCE_S) == 0
    assert _digests(out) == _digests(clean), "outputs are not those of an undisturbed run"
    windows = ledger.keys("done", "window")
    made = [path for path in out.glob("artifacts/*/window-*/*") if path.is_file()]
    lost = len(Ledger(str(clean)).keys("done", "window") - windows)
    names = [path.parent.name for path in made]
    assert lost == 0 and len(names) == len(set(names)) == len(windows), (lost, names)
    return {
        "windows": len(windows),
        "lost": lost,
        "duplicated": len(names) - len(set(names)),
        "rerun": len(made) - len(windows),
        "recover_s": recover_s,
    }


def _wait_for_a_window(ledger: Ledger, flow: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ledger.keys("done", "window"):
        assert flow.poll() is None, f"the flow has ended with {flow.returncode} before a window was there"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def _manifest(folder: Path) -> Path:
    rows = []
    for number in range(CLIPS):
        y, x = np.mgrid[0:64, 0:96]
        frames = (np.stack([x * 2 + 10 * number, y * 3, np.full_like(x, 60 + n)], -1) for n in range(FRAMES))
        write_clip(folder / f"c{number}.mp4", (frame.astype(np.uint8) for frame in frames), rate=Fraction(25))
        job = {"job_id": f"c{number}", "video_uri": f"c{number}.mp4", "task": "removal", "boxes": [BOX]}
        rows.append(job | {"background": "off"})  # so that there are windows
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    return folder / "m.parquet"


def _flow(manifest: Path, out: Path, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.batch", str(manifest), "-o", str(out), "--shard-size", "2"]
    command += ["--cpu-actors", "1", "--gpu-actors", "1"]
    with open(log, "wb") as sink:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=sink)


def _digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "videos").iterdir()}


if __name__ == "__main__":
    print(json.dumps(kill_the_server(Path(sys.argv[1]))))
