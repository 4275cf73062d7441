"""One Ray for many runs, so that a test whose subject is not the start or the end of Ray need not wait for either."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.s3_server import free_ports

ROOT = Path(__file__).parents[2]


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start a Ray cluster of this machine; yields the environment of the processes that join the cluster."""
    port, agent_port = free_ports(2)
    words = f"start --head --block --port {port} --num-cpus 6 --object-store-memory 200000000 --disable-usage-stats"
    words += f" --include-dashboard=false --node-ip-address 127.0.0.1 --dashboard-agent-listen-port {agent_port}"
    words += " --min-worker-port 0 --max-worker-port 0"
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "disabled",  # `ray start` would make a token, and keep it in the user's home
        "RAY_prestart_worker_first_driver": "0",
    }
    # Ray keeps sockets in this folder, and their names may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", *words.split(), "--temp-dir", folder]
        log = Path(folder) / "head.log"
        with (
            open(log, "wb") as sink,
            subprocess.Popen(command, cwd=folder, env=os.environ | environment, stdout=sink, stderr=sink) as head,
        ):
            try:
                while "Ray runtime started" not in log.read_text():
                    assert head.poll() is None, log.read_text()
                    time.sleep(0.1)
                yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
            finally:
                for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
                    process.kill()
