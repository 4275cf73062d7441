"""A guard process that ends the processes of a private Ray when their driver ends, even by SIGKILL.

Ray's own agents outlive a driver that was killed: they try for a minute to report the raylet's death to a dead head.
The driver therefore starts Ray with a mark in the environment. The guard looks every two seconds for the marked
processes and those below them: an agent loses the mark when it sets its title, and its parent when the raylet dies.
This file is also the guard's program, so it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "VACE_BATCH_DRIVER"
"""The environment variable that marks the processes of a private Ray."""

LOOK_AT_PROCESSES_S = 2.0

GRACE_S = 3.0
"""Seconds for the processes to end by themselves after the driver's end."""

GIVE_UP_S = 20.0
"""Seconds after the driver's end until the guard itself ends, whatever remains."""

NOW = b"now"
"""The driver's request to kill without grace."""


class Guard:
    """The guard of a private Ray. Create the guard before Ray starts, and close it after Ray's end."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at a terminal reaches every process of the driver's session
        )

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Mark the processes that are started inside this context."""
        os.environ[MARK] = self._mark
        try:
            yield
        finally:
            os.environ.pop(MARK, None)

    def close(self, *, kill_now: bool = False) -> None:
        """Let the guard kill the processes that remain, at once or after a grace, and end."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # the guard may have been killed
            self._process.stdin.write(NOW if kill_now else b"")
            self._process.stdin.close()
            self._process.wait(GIVE_UP_S)


Processes = dict[int, str]
"""Start times of processes, by id; an id alone may be used again."""


def of_mark(mark: str, known: Processes) -> Processes:
    """Return the living processes that carry the mark, those below them, and those in `known`. Empty without /proc."""
    starts, parents, ours = _read_processes(f"{MARK}={mark}".encode())
    ours |= {pid: start for pid, start in known.items() if starts.get(pid) == start}
    new = set(ours)
    while new:
        new = {pid for pid, parent in parents.items() if parent in new and pid not in ours}
        ours |= {pid: starts[pid] for pid in new}
    return ours


def _read_processes(entry: bytes) -> tuple[Processes, dict[int, int], Processes]:
    """Read all living processes, the parent of each, and the processes whose environment has `entry`."""
    starts: Processes = {}
    parents: dict[int, int] = {}
    marked: Processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # A process of another user cannot be read, and a process may end before it is read.
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            state, parent, *fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if state == "Z":
                continue
            starts[pid], parents[pid] = fields[17], int(parent)
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                marked[pid] = starts[pid]
    return starts, parents, marked


def guard(mark: str) -> None:
    """Look after the marked processes until standard input ends, whose other end the driver holds; then end them."""
    processes: Processes = {}
    while not select.select([sys.stdin], [], [], LOOK_AT_PROCESSES_S)[0]:
        processes = of_mark(mark, processes)
    grace_s = 0.0 if sys.stdin.buffer.read() == NOW else GRACE_S
    end = time.monotonic()
    while processes := of_mark(mark, processes):
        waited_s = time.monotonic() - end
        if waited_s > GIVE_UP_S:
            return
        if waited_s >= grace_s:
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


if __name__ == "__main__":
    guard(sys.argv[1])
