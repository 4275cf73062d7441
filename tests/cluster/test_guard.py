"""The guard kills the processes that carry its mark, those below them, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from vace_batch.cluster.guard import LOOK_AT_PROCESSES_S, Guard

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
WITH_A_CHILD = [
    sys.executable,
    "-c",
    "import os, subprocess, sys, time; child = subprocess.Popen(sys.argv[1:], env={}); print(child.pid, flush=True);"
    "time.sleep(60)",
    *SLEEP,
]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("kill_now", [True, False])
def test_marked_processes_and_those_below_them_end(started: list[subprocess.Popen[str]], kill_now: bool) -> None:
    with closing(Guard()) as guard:
        with guard.marking():
            marked = subprocess.Popen(WITH_A_CHILD, stdout=subprocess.PIPE, text=True)
        started.append(marked)
        other = subprocess.Popen(SLEEP, text=True)
        started.append(other)
        assert marked.stdout is not None
        below = int(marked.stdout.readline())  # without the mark in its environment
        time.sleep(2 * LOOK_AT_PROCESSES_S)
        marked.kill()  # so that the process below has no marked parent any more
        marked.wait()
        guard.close(kill_now=kill_now)
        assert ends_within(below, 5)
        assert other.poll() is None, "a process that was started outside the mark"
        assert "VACE_BATCH_DRIVER" not in os.environ


def test_the_guard_ends_with_its_driver_however_that_ends() -> None:
    driver = (
        "import subprocess, os, signal, sys, time\n"
        "from vace_batch.cluster.guard import Guard\n"
        "guard = Guard()\n"
        "with guard.marking():\n"
        "    child = subprocess.Popen(sys.argv[1:])\n"
        "print(child.pid, guard._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", driver, *SLEEP], stdout=subprocess.PIPE, text=True, check=False)
    child, guard = map(int, done.stdout.split())
    assert ends_within(child, 10) and ends_within(guard, 10)
