"""The command `vace-batch verify`."""

from __future__ import annotations

import typer

from vace_batch.cli.options import Json, OutArg
from vace_batch.cli.running import ERR, EXIT_DONE, EXIT_FAILED, OUT, print_json
from vace_batch.errors import ClusterError
from vace_batch.ledger.verify import verify as find_problems


def verify(out: OutArg, as_json: Json = False) -> None:
    """Read all of OUT and print one line for each problem: finished videos, artifacts, results, stray videos."""
    problems = []
    try:
        for problem in find_problems(out):
            problems.append(problem)
            if not as_json:
                OUT.print(str(problem))
    except OSError as error:
        raise ClusterError(f"{out}: cannot be read: {error}") from error
    if as_json:
        print_json({"ok": not problems, "problems": [problem.as_dict() for problem in problems]})
    elif not problems:
        ERR.print("no problems")
    raise typer.Exit(EXIT_FAILED if problems else EXIT_DONE)
