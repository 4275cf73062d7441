"""The command `vace-batch report`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def report(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a run, finished or not.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="FOLDER", help="Where to write: a path or a store; OUT/report else.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read the ledger again first: what a run that goes on has done since.")
    ] = False,
    previews: Annotated[
        int, typer.Option("--previews", metavar="N", min=0, help="Make small previews of N clips, doubtful ones first.")
    ] = 0,
) -> None:
    """Write a page to look through the results in a browser; open its index.html."""
    from vace_batch.report.writer import write_report

    written = write_report(out, to, previews=previews, refresh=refresh)
    sys.stdout.write(f"{written.uri}: {written.clips} clips\n")
