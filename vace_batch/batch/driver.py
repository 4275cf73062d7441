"""Drive a batch's clips to their end on a runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vace_batch import log
from vace_batch.batch.batch import Batch
from vace_batch.batch.budget import Budget
from vace_batch.batch.events import EventLog
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import another_attempt
from vace_batch.batch.progress import Progress, Show
from vace_batch.batch.spending import Spending, open_budget
from vace_batch.cluster.events import ActorDied, ActorReady, ActorWaiting, Event, UnitDone
from vace_batch.cluster.metrics import Metrics
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.units import Limits as DispatchLimits
from vace_batch.errors import ClusterError
from vace_batch.steps.clip import ClipWork
from vace_batch.storage import files as storage

_LOG = log.get_logger(__name__)


DRAIN_GRACE_S = 20.0
"""For running steps after SIGTERM: Kubernetes kills after 30 s, and stopping Ray and writing results take some, too."""


def run_clips(
    batch: Batch,
    works: Sequence[ClipWork],
    runtime: Runtime,
    *,
    show: Show = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """Run clips to their end, or until `should_stop`: what runs then is finished or given back, never half recorded.

    Returns: why the budget let no more begin; None where it did.

    Raises:
        ClusterError: no actor can be started.
    """
    gpu_actors, cpu_actors = (runtime.pools[name].num_actors for name in ("gpu", "cpu"))
    budget = open_budget(batch.out, batch.options, gpu_actors=gpu_actors, cpu_actors=cpu_actors)
    graph = ClipGraph(works, batch.unkept, another_attempt, budget)
    standing = {actor.actor_id: actor.pool for actor in runtime.actors() if actor.phase == "ready"}
    has_gpu = runtime.pools["gpu"].num_gpus > 0
    spending = Spending(batch.out, batch.options, budget, has_gpu=has_gpu, standing=standing)
    tally = _Tally(graph, show, spending, budget)
    limits = DispatchLimits(payload_bytes=batch.options.payload_mb << 20, drain_grace_s=DRAIN_GRACE_S)
    with log.bind(run=storage.digest(batch.out, str(time.time_ns()))[:8]):
        try:
            runtime.run(graph, graph.first_units(), limits=limits, on_event=tally.add, should_stop=should_stop)
        except OSError as error:
            raise ClusterError(f"{batch.out}: the ledger cannot be written: {error}") from error
        finally:
            tally.close()
        tally.show()
    return budget.reason


class _Tally:
    """Counts a run from its events."""

    def __init__(self, graph: ClipGraph, show: Show, spending: Spending, budget: Budget) -> None:
        self._graph, self._show, self._spending, self._budget = graph, show, spending, budget
        self._started = time.monotonic()
        self._windows_done = self._frames_done = 0
        self._busy_s = 0.0
        self._gpu_actors: set[int] = set()
        self._firsts: dict[str, None] = {}
        self._metrics = Metrics(graph.frames, graph.status)
        self._log = EventLog(graph.jobs_of)

    def close(self) -> None:
        self._metrics.close()
        self._spending.tell()

    def add(self, event: Event) -> None:
        self._metrics.add(event)
        self._spending.add(event)
        self._log.add(event)
        if isinstance(event, ActorReady):
            self._firsts["model" if event.pool == "gpu" else "masks"] = None
        if isinstance(event, ActorReady) and event.pool == "gpu":
            self._gpu_actors.add(event.actor_id)
        if isinstance(event, ActorDied):
            _LOG.warning("an actor of pool %s died (%s): %s", event.pool, event.cause, event.detail)
        if isinstance(event, ActorWaiting):
            _LOG.warning("pool %s waits for a machine that has room for one of its actors", event.pool)
        if isinstance(event, UnitDone) and event.unit.kind == "generate":
            self._windows_done += 1
            self._firsts["window"] = None
            assert isinstance(event.meta, float)
            self._busy_s += event.meta
            self._frames_done += self._graph.frames[event.unit.unit_id]
        self.show()

    def show(self) -> None:
        elapsed, status = time.monotonic() - self._started, self._graph.status
        self._show(
            Progress(
                clips=self._graph.num_clips,
                clips_done=status["done"],
                clips_failed=status["failed"],
                clips_skipped=status["skipped"],
                windows=self._graph.num_windows,
                windows_done=self._windows_done,
                frames_done=self._frames_done,
                gpu_busy=min(1.0, self._busy_s / max(1, len(self._gpu_actors)) / elapsed) if elapsed else 0.0,
                elapsed_s=elapsed,
                firsts=tuple(self._firsts),
                note=self._budget.note,
            )
        )
