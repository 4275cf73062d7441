"""The heartbeat of a run: its driver writes OUT/progress.json every few seconds, for readers on other machines.

The ledger has the finished work; the heartbeat shows that a driver is alive, its speed, and how long each start took.
No step depends on it. A heartbeat that cannot be written for `PATIENCE_S` shows that the store of OUT is lost.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType

from vace_batch import log
from vace_batch.batch.progress import Progress, Show
from vace_batch.cluster.waiting import waiting_for
from vace_batch.errors import LostError, StoreLostError
from vace_batch.ledger.ledger import now
from vace_batch.ledger.schema import HeartbeatRecord, RunRecord
from vace_batch.storage import files as storage

NAME = "progress.json"
GOES_ON, ENDED = "goes on", "ended"
EVERY_S = 5.0

PATIENCE_S = 40.0
"""Seconds without a written heartbeat until the store of OUT is lost. One failed write of a store takes up to 41 s."""

SAY_NO_ANSWER_EVERY_S = 15.0

_LOG = log.get_logger(__name__)


class Heartbeat:
    """Writes OUT/progress.json every few seconds from the first `mark` on, and at the end."""

    def __init__(self, out: str, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._every_s = every_s
        self._clock = clock
        self._began = clock()
        self._beats = 0
        self._progress: Progress | None = None
        self._firsts: dict[str, float] = {}
        self._answered_at: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        if isinstance(error, StoreLostError):  # a write, or the end of the one under way, would take a minute
            return
        if self._thread.is_alive():
            self._thread.join()
        if self._firsts:
            self._beat(ENDED)

    def mark(self, name: str) -> None:
        """Record the time of a first event, such as `planned` or `Ray`, and start the heartbeat."""
        self._firsts.setdefault(name, round(self._clock() - self._began, 1))
        if self._thread.ident is None:
            self._answered_at = time.monotonic()
            self._thread.start()

    def through(self, show: Show) -> Show:
        """Wrap `show` so that the heartbeat receives the progress too."""

        def both(progress: Progress) -> None:
            self._progress = progress
            for name in progress.firsts:
                self._firsts.setdefault(name, round(self._clock() - self._began, 1))
            show(progress)

        return both

    def watching(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Wrap `should_stop` so that a run which asks it ends with `StoreLostError` when the store of OUT is lost."""

        def should_stop_or_lost() -> bool:
            self.check_store()
            return should_stop()

        return should_stop_or_lost

    def check_store(self) -> None:
        """Do nothing while heartbeats are written, or before the first `mark`.

        Raises:
            StoreLostError: no heartbeat was written for `PATIENCE_S`.
        """
        silent_s = 0.0 if self._answered_at is None else time.monotonic() - self._answered_at
        if silent_s > PATIENCE_S:
            raise StoreLostError(f"the store of {self._out} has not answered for {silent_s:.0f} s")

    def _beat_on(self) -> None:
        self._beat(GOES_ON)
        while not self._over.wait(self._every_s):
            self._beat(GOES_ON)

    def _beat(self, state: str) -> None:
        self._beats += 1
        record: HeartbeatRecord = {
            "at": now(),
            "beat": self._beats,
            "state": state,
            "host": socket.gethostname(),
            "firsts": dict(self._firsts),
            "progress": None if self._progress is None else asdict(self._progress),
        }
        try:
            with waiting_for(f"an answer of the store of {self._out}", every_s=SAY_NO_ANSWER_EVERY_S):
                storage.publish(storage.join(self._out, NAME), json.dumps(record).encode())
            self._answered_at = time.monotonic()
        except OSError as error:
            _LOG.debug("%s cannot be written: %s", NAME, error)
            if storage.is_local(self._out):  # a full disk, or a file in place of the folder, is an answer
                self._answered_at = time.monotonic()
        except LostError as error:  # the steps end the run for the same reason
            _LOG.debug("%s cannot be written: %s", NAME, error)
            self._answered_at = time.monotonic()


def read_heartbeat(out: str, run: RunRecord) -> HeartbeatRecord | None:
    """Read the last heartbeat of `run`, the latest run on OUT; None if its driver has written none."""
    try:
        record: HeartbeatRecord = storage.read_json(storage.join(out, NAME))
    except (FileNotFoundError, OSError):
        return None
    return record if record["at"] >= run["started_at"] else None


def cold_start(heartbeat: HeartbeatRecord) -> str:
    """Describe the time until the first window: `first window after 94 s (planned 14, Ray 34, model 88)`."""
    firsts = dict(heartbeat["firsts"])
    window = firsts.pop("window", None)
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in sorted(firsts.items(), key=lambda item: item[1]))
    none = "no window was generated" if heartbeat["state"] == ENDED else "no window is generated yet"
    return f"{none if window is None else f'first window after {window:.0f} s'} ({steps} s)"
