"""The command `vace-batch explain`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from vace_batch.cli.options import Json, OutArg
from vace_batch.report.explain import as_lines
from vace_batch.report.explain import explain as explain_clip


def explain(
    out: OutArg, job: Annotated[str, typer.Argument(metavar="JOB", help="A row's job_id.")], as_json: Json = False
) -> None:
    """Print one clip's whole story: plan, windows, failures, verdict with its metrics, attempts."""
    story = explain_clip(out, job)
    text = json.dumps(story, ensure_ascii=False, allow_nan=False) if as_json else "\n".join(as_lines(story))
    sys.stdout.write(text + "\n")
