"""The command `vace-batch retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from vace_batch.cli.options import AllowRoot, Json, MaxCost, MaxGpuHours, OutArg
from vace_batch.cli.parsing import parse_roots


def retry(
    out: OutArg,
    job: Annotated[list[str] | None, typer.Option(metavar="JOB_ID", help="Only these; repeatable.")] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", metavar="WORD", help="failed (by default), or finished ones: review, fail; repeatable."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="Instead of the manifest's value, from now on; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=N.")] = None,
    dilate: Annotated[str | None, typer.Option(metavar="SIZE", help="How far masks grow: 12px, 5%, 1 token.")] = None,
    shape: Annotated[str | None, typer.Option(help="Masks as mask, filled, hull or box.")] = None,
    model: Annotated[str | None, typer.Option(help="Short for --set model=MODEL.")] = None,
    allow_root: AllowRoot = None,
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Try rows of the last run again: failed ones, or finished ones with something changed; the rest is left alone."""
    from vace_batch.batch.retry import prepare_retry
    from vace_batch.cli.running import run_batch
    from vace_batch.ledger.overrides import parse_changes

    short = {"seed": seed, "dilate": dilate, "mask_shape": shape, "model": model}
    asked = [*(column or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]
    manifest, options = prepare_retry(
        out, jobs=job or (), rows=rows or (), values=parse_changes(asked), roots=parse_roots(allow_root)
    )
    given = {"max_gpu_hours": max_gpu_hours, "max_cost": max_cost}
    bounds = options.budget.model_copy(update={name: one for name, one in given.items() if one is not None})
    run_batch(manifest, out, options.model_copy(update={"budget": bounds}), as_json)
