"""Losses of the driver, the cluster, the address and the token: a run ends in time, says why, and leaves no process.

A stand-in for the engine paints the windows.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import psutil
import pytest

from tests.support.command_line import (
    RUN_WITH_STAND_IN,
    Call,
    clip,
    manifest,
    outputs,
    removal,
    stamps,
    wait_for,
)
from tests.support.s3_server import BUCKET, KEY, SECRET, moto
from vace_batch.errors import LostError
from vace_batch.ledger.ledger import Ledger

ROOT = Path(__file__).parents[2]
CHILDREN_S = 30
ANSWER_S = 60


@dataclass
class Running:
    """A run in a process of its own, and the processes below it once the first window is done."""

    process: subprocess.Popen[str]
    children: list[psutil.Process]
    log: Path

    @property
    def stderr(self) -> str:
        return self.log.read_text()

    def child(self, name: str) -> psutil.Process:
        return next(child for child in self.children if child.name() == name)

    def seconds_until_alone(self) -> float:
        """Wait until every process below the driver is gone; zombies do not count."""
        begin = time.monotonic()
        while alive := [child for child in self.children if is_alive(child)]:
            assert time.monotonic() - begin < CHILDREN_S, alive
            time.sleep(0.1)
        return time.monotonic() - begin


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    mine = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    return inherited | mine | more


@contextmanager
def running(folder: Path, out: str = "", *, clips: int = 12, **variables: str) -> Iterator[Running]:
    """A run of clips of two windows each whose first window is done."""
    rows = [removal(f"c{k}", clip(folder / f"c{k}.mp4", 40, shade=10 * k)) for k in range(clips)]
    path, out = manifest(folder / "m.parquet", rows), out or str(folder / "out")
    command = [*RUN_WITH_STAND_IN, "run", str(path), "-o", out]
    with open(folder / "stderr", "w") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**variables), stdout=subprocess.DEVNULL, stderr=stderr, text=True
        )
    run = Running(process, [], folder / "stderr")
    try:
        deadline = time.monotonic() + 300
        while not Ledger(out).keys("done", "window"):
            assert process.poll() is None and time.monotonic() < deadline, run.stderr
            time.sleep(0.1)
        run.children = psutil.Process(process.pid).children(recursive=True)
        yield run
    finally:
        process.kill()
        process.wait()
        for child in run.children:
            if is_alive(child):
                child.kill()


@pytest.mark.parametrize(
    "name", ["raylet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gcs_server", "ray::DashboardAgent"))]
)
def test_a_run_ends_when_its_own_ray_is_lost(tmp_path: Path, name: str) -> None:
    with running(tmp_path) as run:
        begin = time.monotonic()
        run.child(name).kill()
        code = run.process.wait(ANSWER_S)
        ended_s = time.monotonic() - begin
        alone_s = run.seconds_until_alone()
        message = run.stderr.splitlines()[-1]
        print(f"kill -9 of {name}: exit {code} after {ended_s:.1f} s, alone {alone_s:.1f} s later: {message}")
        assert code == LostError.EXIT_CODE, run.stderr
        assert message.startswith("error: ") and "Ray" in message
        assert message.endswith("; the same command continues the run")


def test_a_killed_driver_leaves_no_process_and_costs_no_finished_window(tmp_path: Path, quick_call: Call) -> None:
    ledger, out = Ledger(str(tmp_path / "out")), tmp_path / "out"
    with running(tmp_path, clips=3) as run:
        wait_for(lambda: len(ledger.keys("done", "window")) >= 2, run.process)
        run.process.kill()
        run.process.wait()
        print(f"kill -9 of the driver: alone {run.seconds_until_alone():.1f} s later")
    made = ledger.keys("done", "window")
    before = {name: at for name, at in stamps(out).items() if any(key in name for key in made)}
    assert 2 <= len(made) < 6

    done = quick_call("run", tmp_path / "m.parquet", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["planned"] == summary["done"] == 3 and summary["windows"] == 6
    assert len(ledger.keys("done", "window")) == 6
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert len([name for name in after if any(key in name for key in made)]) == len(made)

    clean = tmp_path / "clean"
    assert quick_call("run", tmp_path / "m.parquet", "-o", clean).returncode == 0
    assert outputs(clean) == outputs(out)


@pytest.fixture
def head() -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a Ray cluster of one machine that the test starts."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    words = f"start --head --block --port {port} --num-cpus 3 --include-dashboard=false --node-ip-address 127.0.0.1"
    ray = [sys.executable, "-m", "ray.scripts.scripts", *words.split()]
    with subprocess.Popen(ray, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_run_ends_when_the_cluster_that_it_joined_is_lost(
    tmp_path: Path, head: tuple[str, psutil.Process], name: str
) -> None:
    address, cluster = head
    with running(tmp_path, RAY_ADDRESS=address) as run:
        processes = cluster.children(recursive=True)
        begin = time.monotonic()
        next(process for process in processes if process.name() == name).kill()
        code = run.process.wait(ANSWER_S)
        message = run.stderr.splitlines()[-1]
        print(f"kill -9 of the joined {name}: exit {code} after {time.monotonic() - begin:.1f} s: {message}")
        assert code == LostError.EXIT_CODE, run.stderr
        assert message.startswith("error: ") and message.endswith("; the same command continues the run")


@pytest.mark.slow
def test_a_run_ends_when_its_store_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    with moto(tmp_path) as endpoint:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir(BUCKET)
        with running(tmp_path, f"s3://{BUCKET}/out") as run:
            (server,) = (p for p in psutil.Process().children() if "run_simple" in " ".join(p.cmdline()))
            begin = time.monotonic()
            server.kill()
            code = run.process.wait(3 * ANSWER_S)
            ended_s = time.monotonic() - begin
            message = run.stderr.splitlines()[-1]
            print(f"kill -9 of the store: exit {code} after {ended_s:.1f} s: {message}")
            assert code == LostError.EXIT_CODE, run.stderr
            assert ended_s < ANSWER_S and message.endswith("; the same command continues the run")
            run.seconds_until_alone()


@pytest.fixture
def batch(tmp_path: Path) -> list[str]:
    """The command of a run of one clip."""
    path = manifest(tmp_path / "m.parquet", [removal("a", clip(tmp_path / "a.mp4", 9))])
    return [sys.executable, "-m", "vace_batch", "run", str(path), "-o", str(tmp_path / "out")]


def test_a_dead_address_is_told_within_a_minute(batch: list[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"  # bound, not listening: refused
        begin = time.monotonic()
        done = subprocess.run(
            batch, cwd=ROOT, env=environment(RAY_ADDRESS=address), capture_output=True, text=True, check=False
        )
    print(f"dead address: exit {done.returncode} after {time.monotonic() - begin:.1f} s: {done.stderr[-300:]}")
    assert done.returncode == LostError.EXIT_CODE, done.stderr
    assert f"no Ray cluster answers at {address} (RAY_ADDRESS)" in done.stderr
    assert f"waiting for the Ray cluster at {address}" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - begin < ANSWER_S + 30, "with the start of Python on a busy machine"


@pytest.mark.slow
def test_an_address_of_something_else_is_told_within_a_minute(batch: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        done = subprocess.run(
            batch, cwd=ROOT, env=environment(RAY_ADDRESS=address), capture_output=True, text=True, check=False
        )
    print(f"silent address: exit {done.returncode} after {time.monotonic() - begin:.1f} s: {done.stderr[-300:]}")
    assert done.returncode == LostError.EXIT_CODE, done.stderr
    assert time.monotonic() - begin < ANSWER_S + 30


@pytest.mark.parametrize("moment", ["imports", "Ray starts"])
def test_sigterm_gives_130_before_the_first_unit(batch: list[str], tmp_path: Path, moment: str) -> None:
    with subprocess.Popen(batch, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as driver:
        below = psutil.Process(driver.pid)
        deadline = time.monotonic() + 120
        while moment == "Ray starts" and not any(
            child.name() == "gcs_server" for child in below.children(recursive=True)
        ):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        if moment == "imports":
            while "vace_batch" not in " ".join(below.cmdline()) or below.num_fds() < 4:
                time.sleep(0.01)
            time.sleep(0.5)
        children = below.children(recursive=True)
        begin = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=120)
    print(f"SIGTERM while {moment}: exit {driver.returncode} after {time.monotonic() - begin:.1f} s")
    assert driver.returncode == 130
    assert not any(is_alive(child) for child in children)


class _Expired(BaseHTTPRequestHandler):
    """Answers every request as S3 does after a token has expired."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("command", ["run", "status"])
def test_an_expired_token_is_a_sentence(batch: list[str], command: str) -> None:
    pytest.importorskip("s3fs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Expired)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    words = [*batch[:-1], "s3://archive/out"] if command == "run" else [*batch[:3], "status", "s3://archive/out"]
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    begin = time.monotonic()
    try:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment(AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1", **keys),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.shutdown()
    print(f"expired token, {command}: exit {done.returncode} after {time.monotonic() - begin:.1f} s: {done.stderr}")
    assert done.returncode == LostError.EXIT_CODE, done.stderr
    assert "error: the store refuses the credentials of this process: ExpiredToken" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < ANSWER_S + 30
