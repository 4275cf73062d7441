"""Query a test's Prefect server after infra/prefect/set-up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """A server after set-up; `environment` is for processes that use it, `told` has the texts of its notifications."""

    environment: dict[str, str]
    told: list[str]


@contextmanager
def listener(told: list[str]) -> Iterator[str]:
    """Start a webhook; yields its URL and appends the text of each call to `told`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()
        thread.join()


@contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    """Start a worker of the pool vace-batch; at the end the worker and all its child processes are stopped."""
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "vace-batch", "--type", "process"]
    environment = environment | {"PREFECT_WORKER_QUERY_SECONDS": "1", "RAY_worker_niceness": "0"}
    with open(log, "wb") as sink, subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, cwd=ROOT) as one:
        try:
            yield
        finally:
            for process in [*psutil.Process(one.pid).children(recursive=True), one]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def wait_for(there: Callable[[], Any], what: str, every_s: float = 0.5) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := there()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(every_s)
    return found
