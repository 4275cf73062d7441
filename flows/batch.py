"""The batch as a Prefect flow: a manifest is cut into shards, one task a shard drives the whole Ray stage of it.

    python -m flows.batch manifest.parquet -o out       on the embedded server; exit codes are those of `vace-batch run`

Prefect is the view, the ledger in the output is the truth. Nothing here is needed to resume: a flow that was killed, or
whose server went away, is continued by the next run over the same output.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from logging import Logger, LoggerAdapter
from typing import Annotated, Any, cast

from vace_batch import log

log.quiet_environment()
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

import typer  # noqa: E402
from prefect import State, Task, flow, get_run_logger, task  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.objects import TaskRun  # noqa: E402
from prefect.states import Completed  # noqa: E402
from prefect.utilities.annotations import quote  # noqa: E402

from vace_batch.batch import Batch, close_batch, open_batch, open_runtime, run_clips  # noqa: E402
from vace_batch.cluster.runtime import Runtime  # noqa: E402
from vace_batch.config import Options  # noqa: E402
from vace_batch.errors import ClusterError, ManifestError, UsageError  # noqa: E402
from vace_batch.manifest import read_manifest  # noqa: E402
from vace_batch.progress import Progress, Show  # noqa: E402
from vace_batch.results import Summary  # noqa: E402
from vace_batch.steps import ClipWork  # noqa: E402

SUMMARY_KEY = "vace-batch-summary"
FAILURES_KEY = "vace-batch-failures"
WITH_FAILURES = "CompletedWithFailures"
"""Name of the final state when some rows failed, for automations to wait for; its type is COMPLETED."""

_ROWS_SHOWN = 500
_PROGRESS_EVERY_S = 30.0
_SHARD_RETRY_DELAYS_S = [30.0, 120.0]

RunLogger = Logger | LoggerAdapter[Logger]


@flow(name="vace-batch", flow_run_name="{manifest}", persist_result=False)
def batch(
    manifest: str,
    output: str,
    shard_size: int = 200,
    model: str = "tiny",
    cpu_actors: int | None = None,
    gpu_actors: int | None = None,
    allow_roots: tuple[str, ...] = (),
    min_cpu_actors: int | None = None,
    min_gpu_actors: int | None = None,
) -> State[dict[str, int]]:
    """Run every job of a manifest that the output does not have yet; its result are the counters.

    Args:
        manifest: path or URI of the Parquet manifest.
        output: path or URI of the output folder; an earlier one is continued.
        shard_size: clips that one task takes through Ray.
        model: what `vace-batch run --model` takes.
        cpu_actors: processes for masks, VCUs and stitching; by default by the machine's cores.
        gpu_actors: processes for VACE; by default one a GPU.
        allow_roots: what rows may read beside the manifest's folder and the output.
        min_cpu_actors: how many of the CPU processes stay where there is no work; all by default.
        min_gpu_actors: how many of the GPU processes do.

    Raises:
        ManifestError: with every fault of every row.
        UsageError: the model, the output or an option is wrong.
        ClusterError: Ray could not be started, also after retries.
    """
    options = Options(
        model=model,
        cpu_actors=cpu_actors,
        gpu_actors=gpu_actors,
        min_cpu_actors=min_cpu_actors,
        min_gpu_actors=min_gpu_actors,
        allow_roots=allow_roots,
    )
    opened = open_batch(read_manifest(manifest), output, options)
    parts = list(shards(opened.pending, shard_size))
    get_run_logger().info(
        "%d jobs, %d already finished, %d shards", len(opened.works), len(opened.finished), len(parts)
    )
    with Machines(options) as machines:
        for number, part in enumerate(parts, start=1):
            # Quoted, or Prefect would walk through every row in search of futures.
            named = run_shard.with_options(task_run_name=f"shard {number} of {len(parts)}")
            named(cast(Batch, quote(opened)), cast(Sequence[ClipWork], quote(part)), cast(Machines, quote(machines)))
    summary = close_batch(opened)
    publish(summary)
    return final_state(summary)


def shards(works: Sequence[ClipWork], shard_size: int) -> Iterator[Sequence[ClipWork]]:
    """`works` in pieces of at most `shard_size`: by priority, which holds across shards, then in the manifest's order.

    Raises:
        UsageError: `shard_size` is below 1.
    """
    if shard_size < 1:
        raise UsageError(f"shard_size: expected at least 1, got {shard_size}")
    works = sorted(works, key=lambda work: -work.job.priority)
    for start in range(0, len(works), shard_size):
        yield works[start : start + shard_size]


class Machines:
    """One Ray runtime for all shards, so that models stay loaded; opened at the first, and anew after a failure."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._runtime: Runtime | None = None

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, opened: Batch, works: Sequence[ClipWork], show: Show) -> None:
        """Take clips through Ray.

        Raises:
            ClusterError: Ray or its actors cannot be started; the next call starts them anew.
        """
        try:
            if self._runtime is None:
                self._runtime = open_runtime(self._options, opened).__enter__()
            run_clips(opened, works, self._runtime, show=show)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None


def is_cluster_failure(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed shard is worth another try: machines are, faults in the data or the program are not."""
    try:
        state.result()
    except ClusterError:
        return True
    except Exception:  # whatever else the task raised: only the kind is asked for, Prefect keeps the error
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
def run_shard(opened: Batch, works: Sequence[ClipWork], machines: Machines) -> int:
    """Take the clips of one shard through Ray; returns how many they were.

    A clip that fails is a row in the ledger, never a failed task.

    Raises:
        ClusterError: no actor could be started.
    """
    machines.run(opened, works, _logged(get_run_logger()))
    return len(works)


def publish(summary: Summary) -> None:
    """Put the counters, and the failed rows if there are any, on the run's page as tables."""
    counters = {name: value for name, value in summary.counters.items() if isinstance(value, int)}
    create_table_artifact(
        [counters], key=SUMMARY_KEY, description=f"{summary.done} of {summary.planned} done in {summary.out}"
    )
    failed = list(summary.of("failed"))
    if failed:
        shown = [{name: job[name] for name in ("job_id", "error_code", "reason", "attempts")} for job in failed]
        description = f"{len(failed)} failed rows" + (f", the first {_ROWS_SHOWN}" if len(failed) > _ROWS_SHOWN else "")
        create_table_artifact(shown[:_ROWS_SHOWN], key=FAILURES_KEY, description=description)


def final_state(summary: Summary) -> State[dict[str, int]]:
    """Completed, under another name when rows failed; the counters are its data."""
    counters = {name: getattr(summary, name) for name in ("planned", "done", "failed", "skipped", "pending", "windows")}
    message = f"{summary.done} of {summary.planned} jobs done, {summary.failed} failed, {summary.skipped} skipped"
    name = WITH_FAILURES if summary.failed or summary.pending else None
    return Completed(message=message, data=counters, name=name)


def _logged(logger: RunLogger) -> Show:
    """Progress as a line in the run's log, now and then and at the end."""
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        finished = progress.clips_finished == progress.clips
        if finished or time.monotonic() - last >= _PROGRESS_EVERY_S:
            last = time.monotonic()
            logger.info("%s", progress)

    return show


def main(
    manifest: Annotated[str, typer.Argument(help="Parquet manifest, path or URI")],
    output: Annotated[str, typer.Option("-o", "--out", help="output folder, path or URI")],
    shard_size: Annotated[int, typer.Option(min=1, help="clips a task")] = 200,
    model: Annotated[str, typer.Option(help="tiny, a local directory or a hub id")] = "tiny",
    cpu_actors: Annotated[int | None, typer.Option(min=1, help="processes for masks and stitching")] = None,
    gpu_actors: Annotated[int | None, typer.Option(min=1, help="processes for VACE")] = None,
    allow_root: Annotated[
        list[str] | None, typer.Option(help="what rows may read beside the manifest's folder")
    ] = None,
) -> None:
    """Run a manifest as a Prefect flow, on the server of PREFECT_API_URL or on an embedded one."""
    log.configure()
    try:
        counters = cast(
            dict[str, int], batch(manifest, output, shard_size, model, cpu_actors, gpu_actors, tuple(allow_root or ()))
        )
    except (ManifestError, UsageError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    print(" ".join(f"{name}={value}" for name, value in counters.items()), f"output={output}")
    raise typer.Exit(1 if counters["failed"] or counters["pending"] else 0)


if __name__ == "__main__":
    typer.run(main)
