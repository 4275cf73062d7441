"""Drive a batch from a flow: run shard after shard on one Ray, publish counters as tables, end in a state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from logging import Logger, LoggerAdapter
from typing import Any, cast

from prefect import State, Task, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed
from prefect.utilities.annotations import quote
from pydantic import ValidationError

from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.driver import run_clips
from vace_batch.batch.heartbeat import Heartbeat
from vace_batch.batch.pools import open_runtime
from vace_batch.batch.progress import Progress, Show
from vace_batch.cluster.runtime import Runtime
from vace_batch.errors import ClusterError, UsageError
from vace_batch.ledger.summary import Summary
from vace_batch.manifest.reader import Manifest
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork

SUMMARY_KEY = "vace-batch-summary"
FAILURES_KEY = "vace-batch-failures"
SKIPPED_KEY = "vace-batch-skipped"
WITH_FAILURES = "CompletedWithFailures"
"""Name of the final state when some rows failed, for automations; its type is COMPLETED."""
IN_PART = "CompletedInPart"
"""Name of the final state when rows are pending, because time or budget ended; the next run continues."""

_ROWS_SHOWN = 500
_PROGRESS_EVERY_S = 30.0
_SHARD_RETRY_DELAYS_S = [30.0, 120.0]

RunLogger = Logger | LoggerAdapter[Logger]
Stop = Callable[[], bool]


def options_of(settings: Mapping[str, Any] | None, **parameters: Any) -> Options:
    """Make options from `settings`, in the form of `run.json`, and from a flow's own `parameters`, which win.

    Raises:
        UsageError: a setting is unknown or out of range.
    """
    try:
        return Options.model_validate({**(settings or {}), **parameters})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"settings: {faults}") from None


def drive(
    manifest: Manifest, output: str, options: Options, *, shard_size: int, should_stop: Stop = lambda: False
) -> State[dict[str, int]]:
    """Run the clips that the output lacks, until `should_stop`; the next run continues with the others.

    Raises:
        UsageError: the model, the output or an option is wrong.
        ClusterError: Ray could not be started, also after retries.
    """
    with Heartbeat(output) as heartbeat:
        batch = open_batch(manifest, output, options)
        heartbeat.mark("planned")
        parts = list(shards(batch.pending, shard_size))
        get_run_logger().info(
            "%d jobs, %d already finished, %d shards", len(batch.works), len(batch.finished), len(parts)
        )
        with Machines(options, heartbeat, should_stop) as machines:
            for number, part in enumerate(parts, start=1):
                if should_stop() or machines.stopped:
                    break
                shard = run_shard.with_options(task_run_name=f"shard {number} of {len(parts)}")
                # Quoted, or Prefect would walk through every row in search of futures.
                shard(cast(Batch, quote(batch)), cast(Sequence[ClipWork], quote(part)), cast(Machines, quote(machines)))
        summary = close_batch(batch)
    publish(summary)
    return final_state(summary)


def shards(works: Sequence[ClipWork], shard_size: int) -> Iterator[Sequence[ClipWork]]:
    """Cut `works` into shards of at most `shard_size`, by priority across shards, then in the manifest's order.

    Raises:
        UsageError: `shard_size` is below 1.
    """
    if shard_size < 1:
        raise UsageError(f"shard_size: expected at least 1, got {shard_size}")
    works = sorted(works, key=lambda work: -work.job.priority)
    for start in range(0, len(works), shard_size):
        yield works[start : start + shard_size]


class Machines:
    """One Ray runtime for all shards, so that models stay loaded; opened at the first shard and after a failure."""

    def __init__(self, options: Options, heartbeat: Heartbeat | None = None, should_stop: Stop = lambda: False) -> None:
        self._options, self._heartbeat, self._should_stop = options, heartbeat, should_stop
        self._opened = ExitStack()
        self._runtime: Runtime | None = None
        self.stopped: str | None = None
        """Reason why the budget lets no more work begin."""

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, batch: Batch, works: Sequence[ClipWork], show: Show) -> None:
        """Run clips on Ray.

        Raises:
            ClusterError: Ray or its actors cannot be started; the next call starts them again.
        """
        try:
            if self._runtime is None:
                self._runtime = self._opened.enter_context(open_runtime(self._options, batch))
            should_stop = self._should_stop
            if self._heartbeat is not None:
                self._heartbeat.mark("Ray")
                show = self._heartbeat.through(show)
                should_stop = self._heartbeat.watching(should_stop)
            self.stopped = run_clips(batch, works, self._runtime, show=show, should_stop=should_stop)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._runtime = None
        self._opened.close()


def is_cluster_failure(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a shard failed for its machines and is worth another try; faults in data or program are not."""
    try:
        state.result()
    except ClusterError:
        return True
    except Exception:  # any other error of the task; Prefect keeps it
        return False
    return False


@task(
    name="shard",
    retries=len(_SHARD_RETRY_DELAYS_S),
    retry_delay_seconds=_SHARD_RETRY_DELAYS_S,
    retry_condition_fn=is_cluster_failure,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_shard(batch: Batch, works: Sequence[ClipWork], machines: Machines) -> int:
    """Run the clips of one shard on Ray; returns the number of clips.

    A clip that fails is a row in the ledger, never a failed task.

    Raises:
        ClusterError: no actor could be started.
    """
    machines.run(batch, works, _logged(get_run_logger()))
    return len(works)


def publish(summary: Summary) -> None:
    """Put the counters, the failed rows and the skipped rows on the flow run's page, as tables."""
    counters = {name: value for name, value in summary.counters.items() if isinstance(value, int)}
    create_table_artifact(
        [counters], key=SUMMARY_KEY, description=f"{summary.done} of {summary.planned} done in {summary.out}"
    )
    _publish_rows(summary, "failed", FAILURES_KEY, ("job_id", "error_code", "reason", "runs"))
    _publish_rows(summary, "skipped", SKIPPED_KEY, ("job_id", "reason"))


def _publish_rows(summary: Summary, status: str, key: str, columns: Sequence[str]) -> None:
    """Put the rows of a status on the flow run's page, as a table; no table without rows."""
    rows = list(summary.of(status))
    if rows:
        description = f"{len(rows)} {status} rows" + (f", the first {_ROWS_SHOWN}" if len(rows) > _ROWS_SHOWN else "")
        shown = [{name: value for name, value in row.items() if name in columns} for row in rows[:_ROWS_SHOWN]]
        create_table_artifact(shown, key=key, description=description)


def final_state(summary: Summary) -> State[dict[str, int]]:
    """Final state with the counters as data: Completed, with a name of its own when rows failed or are pending."""
    counters = {name: getattr(summary, name) for name in ("planned", "done", "failed", "skipped", "pending", "windows")}
    message = f"{summary.done} of {summary.planned} jobs done, {summary.failed} failed, {summary.skipped} skipped"
    message += f"; {summary.stopped}" if summary.stopped else ""
    name = WITH_FAILURES if summary.failed else IN_PART if summary.pending else None
    return Completed(message=message, data=counters, name=name)


def _logged(logger: RunLogger) -> Show:
    """Log progress as a line, every 30 s and at the end."""
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        finished = progress.clips_finished == progress.clips
        if finished or time.monotonic() - last >= _PROGRESS_EVERY_S:
            last = time.monotonic()
            logger.info("%s", progress)

    return show
