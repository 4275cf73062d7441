"""Watches a run from another process until it ends, by its ledger and its driver's heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vace_batch.batch.heartbeat import ENDED, cold_start, read_heartbeat
from vace_batch.batch.progress import Progress
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.run_plan import read_plan, read_run
from vace_batch.ledger.schema import HeartbeatRecord

EVERY_S, SILENCE_S = 2.0, 120.0
_SHARE = 0.1
"""The largest share of the time spent on looking: listing a large ledger in a store takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A look at the latest run on an output folder. `windows` counts all windows in the folder, of earlier runs too."""

    planned: int
    done: int
    failed: int
    windows: int
    heartbeat: HeartbeatRecord | None

    @property
    def is_over(self) -> bool:
        """Whether the driver has reported the end; a run without heartbeats is over when no clip is left."""
        if self.heartbeat is not None:
            return bool(self.heartbeat["state"] == ENDED)
        return self.done + self.failed == self.planned

    def as_progress(self) -> Progress:
        """Convert to the progress of all clips of the batch; speed and windows are those of the driver."""
        latest = (self.heartbeat["progress"] if self.heartbeat is not None else None) or {}
        note = "" if self.heartbeat is None else f"{cold_start(self.heartbeat)}; on {self.heartbeat['host']}"
        return Progress(
            clips=self.planned,
            clips_done=self.done,
            clips_failed=self.failed,
            clips_skipped=0,
            windows=latest.get("windows", self.windows),
            windows_done=latest.get("windows_done", self.windows),
            frames_done=latest.get("frames_done", 0),
            gpu_busy=latest.get("gpu_busy", 0.0),
            elapsed_s=latest.get("elapsed_s", 0.0),
            clips_before=self.planned - latest["clips"] if latest else self.done + self.failed,
            note=note,
        )


def watch(
    out: str,
    *,
    every_s: float = EVERY_S,
    silence_s: float = SILENCE_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[RunView]:
    """Look at the latest run on OUT until it is over, or until nothing has changed for `silence_s`.

    Raises:
        UsageError: OUT is not an output folder.
    """
    ledger = Ledger(out)
    plan = ""
    keys: set[str] = set()
    before = None
    since = clock()
    while True:
        began = clock()
        run = read_run(out)
        if run["plan"] != plan:
            plan = run["plan"]
            keys = {job.clip_key for job in read_plan(out)}
        done = ledger.keys("done", "clip") & keys
        view = RunView(
            planned=len(keys),
            done=len(done),
            failed=len(ledger.keys("quarantine", "clip") & keys - done),
            windows=len(ledger.keys("done", "window")),
            heartbeat=read_heartbeat(out, run),
        )
        yield view
        if view != before:
            before, since = view, clock()
        if view.is_over or clock() - since > silence_s:
            return
        sleep(max(every_s, (clock() - began) / _SHARE))
