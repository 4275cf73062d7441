"""The command `vace-batch retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from vace_batch.cli.options import ALLOW_ROOT, BOUNDS, Json, OutArg, with_options
from vace_batch.cli.running import run_batch
from vace_batch.ledger.overrides import parse_overrides
from vace_batch.options import Options


@with_options(ALLOW_ROOT, *BOUNDS)
def retry(
    out: OutArg,
    options: Options,
    job: Annotated[list[str] | None, typer.Option(metavar="JOB_ID", help="Only this row; repeatable.")] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="WORD",
            help="Rows: failed and lost (the default; the video is missing or another), or by verdict: review, fail;"
            " repeatable.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="COLUMN=VALUE", help="Value that replaces the manifest's from now on; repeatable."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=N.")] = None,
    dilate: Annotated[str | None, typer.Option(metavar="SIZE", help="Growth of the masks: 12px, 5%, 1 token.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of the masks: mask, filled, hull or box.")] = None,
    model: Annotated[str | None, typer.Option(help="Short for --set model=MODEL.")] = None,
    as_json: Json = False,
) -> None:
    """Run rows of the last run again: failed ones, or finished ones with a change. Other rows are left alone."""
    from vace_batch.batch.retry import prepare_retry  # loads OpenCV and PyAV

    shortcuts = {"seed": seed, "dilate": dilate, "mask_shape": shape, "model": model}
    changes = [*(column or ()), *(f"{name}={value}" for name, value in shortcuts.items() if value is not None)]
    manifest, earlier = prepare_retry(
        out, jobs=job or (), rows=rows or (), values=parse_overrides(changes), roots=options.allow_roots
    )
    bounds = {name: bound for name, bound in options.budget if bound is not None}
    budget = earlier.budget.model_copy(update=bounds)
    raise typer.Exit(run_batch(manifest, out, earlier.model_copy(update={"budget": budget}), as_json=as_json))
