"""Run a batch: plan a manifest, drive its clips on a Ray runtime, write the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from vace_batch import log
from vace_batch.batch.batch import Batch, ManifestSource, close_batch, open_batch, open_manifest
from vace_batch.batch.budget import Actors, Budget
from vace_batch.batch.events import EventLog
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.heartbeat import Heartbeat
from vace_batch.batch.identity import another_attempt, model_reader
from vace_batch.batch.pools import open_runtime
from vace_batch.batch.progress import Show
from vace_batch.batch.sinks import ActorWarnings, ProgressCounter, Sinks
from vace_batch.batch.spending import Spending, open_account
from vace_batch.cluster.metrics import Metrics
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.units import Limits as DispatchLimits
from vace_batch.errors import ClusterError, StoreLostError
from vace_batch.ledger.summary import Summary
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.storage import files as storage
from vace_batch.storage.retry import is_disk_full

DRAIN_GRACE_S = 20.0
"""Seconds for running steps after SIGTERM: Kubernetes kills after 30 s, and Ray's stop and the results take time."""


def run(
    manifest: ManifestSource,
    out: str,
    options: Options | None = None,
    *,
    show: Show = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_planned: Callable[[Batch], None] = lambda batch: None,
    verify: bool = False,
) -> Summary:
    """Run a manifest, or continue an earlier run of it, and write the results.

    Args:
        manifest: a manifest, or the path or URI of its Parquet file.
        out: path or URI of the output folder; finished clips in it are not run again.
        options: the run's options; the defaults unless given.
        show: receives the progress after every event.
        should_stop: asked again and again; at the first True the run drains and ends with rows pending.
        on_planned: receives the planned batch before any clip is run.
        verify: read every finished video and artifact before deciding which clips are finished, not only their sizes
            and times.

    Raises:
        ManifestError: with every fault of every row.
        UsageError: the model, the output folder or an option is wrong.
        ClusterError: Ray or its actors cannot be started, or the disk of OUT is full.
        LostError: the Ray cluster or the store of OUT was lost.
    """
    options = options or Options()
    with Heartbeat(out) as heartbeat:
        batch = open_batch(open_manifest(manifest), out, options, verify=verify)
        heartbeat.mark("planned")
        on_planned(batch)
        if batch.pending and not should_stop():
            with open_runtime(options, batch) as runtime:
                heartbeat.mark("Ray")
                stop = heartbeat.watching(should_stop)
                run_clips(batch, batch.pending, runtime, show=heartbeat.through(show), should_stop=stop)
        return close_batch(batch)


def run_clips(
    batch: Batch,
    works: Sequence[ClipWork],
    runtime: Runtime,
    *,
    show: Show = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """Run clips on a runtime to their end, or until `should_stop`; running steps then finish or are given back.

    Returns: the reason why the budget let no more work begin, else None.

    Raises:
        ClusterError: no actor can be started, or the disk of OUT is full.
        LostError: the Ray cluster or the store of OUT was lost.
    """
    cpu, gpu = runtime.pools["cpu"], runtime.pools["gpu"]
    account = open_account(batch.out, batch.options)
    actors = Actors(gpu=gpu.num_actors, cpu=cpu.num_actors, max_batch=batch.options.max_batch)
    budget = Budget(batch.options.budget, batch.options.prices, account, actors)
    graph = ClipGraph(works, batch.unkept, partial(another_attempt, read_model=model_reader()), budget)
    spending = Spending(batch.out, batch.options, account, has_gpu=gpu.num_gpus > 0)
    spending.add_standing({actor.actor_id: actor.pool for actor in runtime.actors() if actor.phase == "ready"})
    sinks = Sinks(
        [
            Metrics(graph.frames, graph.status),
            spending,
            EventLog(graph.jobs_of),
            ActorWarnings(),
            ProgressCounter(graph, budget, show),
        ]
    )
    limits = DispatchLimits(payload_bytes=batch.options.payload_mb << 20, drain_grace_s=DRAIN_GRACE_S)
    with log.bind(run=storage.digest(batch.out, str(time.time_ns()))[:8]):
        try:
            _drive(runtime, graph, limits, sinks, should_stop, batch.out)
        finally:
            sinks.close()
    return budget.reason


def _drive(
    runtime: Runtime,
    graph: ClipGraph,
    limits: DispatchLimits,
    sinks: Sinks,
    should_stop: Callable[[], bool],
    out: str,
) -> None:
    """Run the graph; a ledger that cannot be written stops the run.

    Raises:
        ClusterError: no actor can be started, or the disk of `out` is full.
        LostError: the Ray cluster or the store was lost.
    """

    def stop() -> bool:
        try:
            return should_stop()
        except StoreLostError:
            sinks.forget()
            raise

    try:
        runtime.run(graph, graph.first_units(), limits=limits, on_event=sinks.add, should_stop=stop)
    except OSError as error:
        if is_disk_full(error):
            raise ClusterError(f"{out}: the ledger cannot be written: {error}") from error
        sinks.forget()
        raise StoreLostError(f"{out}: the ledger cannot be written: {error}") from error
