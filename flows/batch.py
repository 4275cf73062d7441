"""The batch as a Prefect flow: a manifest is cut into shards, one task a shard drives the whole Ray stage of it.

    python -m flows.batch manifest.parquet -o out       on the embedded server; exit codes are those of `vace-batch run`

Prefect is the view, the ledger in the output is the truth. Nothing here is needed to resume: a flow that was killed, or
whose server went away, is continued by the next run over the same output.
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
from vace_batch.errors import ManifestError, UsageError
from vace_batch.manifest.reader import read_manifest

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
        settings: everything else that a run may be told, as run.json has it under `options`, such as
            {"attempts": {"max_attempts": 3}, "quality": {"seam": {"review": 4}}, "budget": {"max_gpu_hours": 20}}.
        hours: when it may work, as 22:00-06:00; at the end it stops, and the next run goes on. Always by default.
        timezone: of `hours`.
        continued: how many runs before this one have crashed; after 5 in a row it is left to a person.

    Raises:
        ManifestError: with every fault of every row.
        UsageError: the model, the output or an option is wrong, or it has crashed too often.
        ClusterError: Ray could not be started, also after retries.
    """
    if continued > MAX_CONTINUED:
        raise UsageError(f"the {MAX_CONTINUED} runs before this one crashed, too: look at why, then start it by hand")
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
        get_run_logger().info("it is not %s in %s: nothing is done", hours, timezone)
        return Completed(name=OUT_OF_HOURS, message=f"not {hours} in {timezone}")
    found = read_manifest(manifest)
    return drive(
        found,
        output,
        options,
        shard_size=shard_size,
        should_stop=lambda: end is not None and datetime.now(UTC) >= end,
    )


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
