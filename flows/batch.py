"""Run a batch as a Prefect flow: the manifest is cut into shards, and one task runs the clips of one shard on Ray.

    python -m flows.batch manifest.parquet -o out       on the embedded server; exit codes are those of `vace-batch run`

Prefect only shows; the ledger in the output folder is the truth. A flow that was killed, or lost its server, is
continued by the next run on the same output folder.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import typer
from prefect import State, flow, get_run_logger
from prefect.states import Completed

from flows.driving import drive, options_of
from flows.hours import end_of_hours
from vace_batch import log
from vace_batch.cli.options import ALLOW_ROOT, CPU_ACTORS, GPU_ACTORS, MODEL, ManifestArg, OutOption, with_options
from vace_batch.cli.running import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from vace_batch.errors import ManifestError, UsageError
from vace_batch.manifest.reader import read_manifest
from vace_batch.options import Options

OUT_OF_HOURS = "OutOfHours"
MAX_CONTINUED = 5


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
    settings: dict[str, Any] | None = None,
    hours: str | None = None,
    timezone: str = "UTC",
    continued: int = 0,
) -> State[dict[str, int]]:
    """Run every job of a manifest that the output lacks; the result is the counters.

    Args:
        manifest: path or URI of the Parquet manifest.
        output: path or URI of the output folder; an earlier run in it is continued.
        shard_size: clips in one shard, which one task runs.
        model: a model as for `vace-batch run --model`.
        cpu_actors: processes for masks, VCUs and stitching; by default one per free core.
        gpu_actors: processes for VACE; by default one per GPU.
        allow_roots: folders or URIs that rows may read besides the manifest's folder and the output.
        min_cpu_actors: CPU processes that stay when idle; all by default.
        min_gpu_actors: GPU processes that stay when idle; all by default.
        settings: further options, in the form of `options` in run.json, such as
            {"attempts": {"max_attempts": 3}, "quality": {"seam": {"review": 4}}, "budget": {"max_gpu_hours": 20}}.
        hours: hours in which the flow may work, such as 22:00-06:00; then it stops, and the next run continues.
        timezone: time zone of `hours`.
        continued: number of crashed runs directly before this run; after 5 a person must look.

    Raises:
        ManifestError: with every fault of every row.
        UsageError: the model, the output or an option is wrong, or too many runs crashed.
        ClusterError: Ray could not be started, even after retries.
    """
    if continued > MAX_CONTINUED:
        raise UsageError(
            f"the {MAX_CONTINUED} runs before this one crashed: find the cause, then start the run by hand"
        )
    options = options_of(
        settings,
        model=model,
        cpu_actors=cpu_actors,
        gpu_actors=gpu_actors,
        min_cpu_actors=min_cpu_actors,
        min_gpu_actors=min_gpu_actors,
        allow_roots=allow_roots,
    )
    end = None if hours is None else end_of_hours(hours, timezone, datetime.now(UTC))
    if hours is not None and end is None:
        get_run_logger().info("outside of the hours %s in %s: nothing is run", hours, timezone)
        return Completed(name=OUT_OF_HOURS, message=f"not {hours} in {timezone}")
    return drive(
        read_manifest(manifest),
        output,
        options,
        shard_size=shard_size,
        should_stop=lambda: end is not None and datetime.now(UTC) >= end,
    )


@with_options(MODEL, CPU_ACTORS, GPU_ACTORS, ALLOW_ROOT)
def main(
    manifest: ManifestArg,
    out: OutOption,
    options: Options,
    shard_size: Annotated[int, typer.Option(min=1, help="Clips in one shard, which one task runs.")] = 200,
) -> None:
    """Run a manifest as a Prefect flow, on the server of PREFECT_API_URL or on an embedded one."""
    log.configure()
    try:
        state = batch(
            manifest,
            out,
            shard_size=shard_size,
            model=options.model,
            cpu_actors=options.cpu_actors,
            gpu_actors=options.gpu_actors,
            allow_roots=options.allow_roots,
        )
    except (ManifestError, UsageError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    counters = cast(dict[str, int], state)
    print(" ".join(f"{name}={value}" for name, value in counters.items()), f"output={out}")
    raise typer.Exit(EXIT_FAILED if counters["failed"] or counters["pending"] else EXIT_DONE)


if __name__ == "__main__":
    typer.run(main)
