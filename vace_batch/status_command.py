"""The command `vace-batch status`."""

from __future__ import annotations

import typer

from vace_batch.cli_options import Json, OutArg


def status(out: OutArg, as_json: Json = False) -> None:
    """What the ledger says of the last run on OUT."""
    from vace_batch.results import summarise
    from vace_batch.running import exit_code, show_summary

    summary = summarise(out, shown_only=True)
    show_summary(summary, as_json)
    raise typer.Exit(exit_code(summary))
