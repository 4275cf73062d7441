"""A guard process that ends the processes of a private Ray when their driver is gone, whatever ended the driver.

Ray's own agents outlive a driver that was killed: they try for a minute to report the raylet's death to a dead head.
The driver therefore marks its environment, which all processes below the driver inherit, and the guard kills the
processes that carry the mark. This file is also the guard's program, so it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "VACE_BATCH_DRIVER"
"""The environment variable that marks the processes below a driver."""

GRACE_S = 3.0
"""Seconds for the processes to end by themselves after the driver's end."""

GIVE_UP_S = 20.0
"""Seconds after the driver's end until the guard itself ends, whatever remains."""


class Guard:
    """The guard of this process's children. Create the guard before Ray starts, and close it after Ray's end."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at a terminal reaches every process of the driver's session
        )
        os.environ[MARK] = self._mark  # the guard itself started without the mark

    def kill_children(self) -> None:
        """Kill the marked processes at once."""
        kill(marked(self._mark))

    def close(self) -> None:
        """Let the guard kill the marked processes that remain, and end."""
        os.environ.pop(MARK, None)
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GIVE_UP_S)


def marked(mark: str) -> list[int]:
    """Return the ids of the processes, except this one, whose environment carries the mark. Empty without /proc."""
    entry = f"{MARK}={mark}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process of another user cannot be read, and a process may end before it is read.
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                pids.append(int(folder.name))
    return pids


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def watch_driver(mark: str) -> None:
    """Wait for the end of standard input, whose other end the driver holds; then end the marked processes."""
    sys.stdin.buffer.read()
    end = time.monotonic()
    while pids := marked(mark):
        waited = time.monotonic() - end
        if waited > GIVE_UP_S:
            return
        if waited > GRACE_S:
            kill(pids)
        time.sleep(0.5)


if __name__ == "__main__":
    watch_driver(sys.argv[1])
