"""A run as it is seen from elsewhere, again and again until it ends: by its ledger, and by what its driver tells."""

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
"""Of the time, that looking may take: listing a large ledger in a store takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What was seen of the last run on an output folder. `windows`: those that the folder has, of all runs."""

    planned: int
    done: int
    failed: int
    windows: int
    heartbeat: HeartbeatRecord | None

    @property
    def is_over(self) -> bool:
        """Whether its driver says so; a run that tells nothing is over when nothing is left."""
        if self.heartbeat is not None:
            return bool(self.heartbeat["state"] == ENDED)
        return self.done + self.failed == self.planned

    def as_progress(self) -> Progress:
        """Of all clips of the batch, those of earlier runs included; speed and windows are the driver's."""
        told = (self.heartbeat["progress"] if self.heartbeat is not None else None) or {}
        note = "" if self.heartbeat is None else f"{cold_start(self.heartbeat)}; on {self.heartbeat['host']}"
        return Progress(
            clips=self.planned,
            clips_done=self.done,
            clips_failed=self.failed,
            clips_skipped=0,
            windows=told.get("windows", self.windows),
            windows_done=told.get("windows_done", self.windows),
            frames_done=told.get("frames_done", 0),
            gpu_busy=told.get("gpu_busy", 0.0),
            elapsed_s=told.get("elapsed_s", 0.0),
            clips_before=self.planned - told["clips"] if told else self.done + self.failed,
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
    """Look at the last run on OUT until it is over, or until nothing has changed for `silence_s`.

    Raises:
        UsageError: OUT is no output folder.
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
