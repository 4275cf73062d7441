"""Event sinks of a run: each receives every event of the dispatcher and keeps one account of the run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from vace_batch import log
from vace_batch.batch.budget import Budget
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.progress import Progress, Show
from vace_batch.cluster.events import ActorDied, ActorReady, ActorWaiting, Event, UnitDone
from vace_batch.costs import StepKind

_WAITING_EVERY_S = 25.0

_LOG = log.get_logger(__name__)


class Sink(Protocol):
    """A receiver of a run's events: `Metrics`, `Spending`, `EventLog`, and the classes below."""

    def add(self, event: Event) -> None: ...

    def close(self) -> None:
        """End the account; no event follows."""


class Sinks:
    """Several sinks as one; each event goes to all of them in order."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks: Sequence[Sink] = sinks

    def add(self, event: Event) -> None:
        """Pass an event to all sinks."""
        for sink in self._sinks:
            sink.add(event)

    def forget(self) -> None:
        """Pass no further event on and close no sink: each write to a lost store takes most of a minute."""
        self._sinks = ()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class ActorWarnings:
    """Logs a warning for every actor that dies, and every 30 s for every pool that waits for a machine."""

    def __init__(self) -> None:
        self._waiting_told_at: dict[str, float] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, ActorDied):
            _LOG.warning("an actor of pool %s died (%s): %s", event.pool, event.cause, event.detail)
        if isinstance(event, ActorWaiting):
            self._tell_waiting(event)

    def _tell_waiting(self, event: ActorWaiting) -> None:
        """Tell of the first waiting actor of a pool: all actors of a pool report within a second."""
        now = time.monotonic()
        if now - self._waiting_told_at.get(event.pool, -math.inf) > _WAITING_EVERY_S:
            self._waiting_told_at[event.pool] = now
            message = "pool %s waits for a machine with room for one of its actors, for %.0f s now"
            _LOG.warning(message, event.pool, event.seconds)

    def close(self) -> None:
        pass


class ProgressCounter:
    """Counts windows, frames and GPU time, and calls `show` with a `Progress` after each event and at the end."""

    def __init__(self, graph: ClipGraph, budget: Budget, show: Show) -> None:
        self._graph = graph
        self._budget = budget
        self._show = show
        self._started = time.monotonic()
        self._windows_done = 0
        self._frames_done = 0
        self._busy_s = 0.0
        self._gpu_actors: set[int] = set()
        self._firsts: dict[str, None] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, ActorReady):
            self._firsts["model" if event.pool == "gpu" else "masks"] = None
            if event.pool == "gpu":
                self._gpu_actors.add(event.actor_id)
        if isinstance(event, UnitDone) and event.unit.kind == StepKind.GENERATE:
            assert isinstance(event.meta, float)
            self._firsts["window"] = None
            self._windows_done += 1
            self._frames_done += self._graph.frames[event.unit.key]
            self._busy_s += event.meta
        self._show(self._progress())

    def close(self) -> None:
        self._show(self._progress())

    def _progress(self) -> Progress:
        elapsed_s = time.monotonic() - self._started
        status = self._graph.status
        return Progress(
            clips=self._graph.num_clips,
            clips_done=status["done"],
            clips_failed=status["failed"],
            clips_skipped=status["skipped"],
            windows=len(self._graph.frames),
            windows_done=self._windows_done,
            frames_done=self._frames_done,
            gpu_busy=min(1.0, self._busy_s / max(1, len(self._gpu_actors)) / elapsed_s) if elapsed_s else 0.0,
            elapsed_s=elapsed_s,
            firsts=tuple(self._firsts),
            note=self._budget.note,
        )
