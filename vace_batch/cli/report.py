"""The command `vace-batch report`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vace_batch.report.writer import write_report


def report(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Output folder of a finished or running run.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FOLDER", help="Folder to write: a path or a URI; by default OUT/report."),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read the ledger again first, to include the progress of a running run.")
    ] = False,
    previews: Annotated[
        int, typer.Option("--previews", metavar="N", min=0, help="Make small previews of N clips, doubtful ones first.")
    ] = 0,
) -> None:
    """Write a page to look through the results in a browser; open its index.html."""
    written = write_report(out, to, previews=previews, refresh=refresh)
    sys.stdout.write(f"{written.uri}: {written.clips} clips\n")
