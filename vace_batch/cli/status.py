"""The command `vace-batch status`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from vace_batch.batch.heartbeat import cold_start, read_heartbeat
from vace_batch.batch.monitor import SILENCE_S, watch
from vace_batch.batch.progress import view
from vace_batch.cli.options import Json, OutArg
from vace_batch.cli.running import ERR, EXIT_FAILED, exit_code, show_summary
from vace_batch.errors import ClusterError
from vace_batch.ledger.outputs import Outputs, find_problems
from vace_batch.ledger.run_plan import read_plan, read_run
from vace_batch.ledger.summary import summarise

_TICK_S = 0.2


def status(
    out: OutArg,
    follow: Annotated[
        bool, typer.Option("--watch", help="Show progress until the run ends; Ctrl-C does not stop the run.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also list finished videos that are missing, cut off or replaced; exit code 1."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the state of the last run on OUT, from its ledger. `verify OUT` reads the videos themselves."""
    if follow:
        _watch(out, quiet=as_json)
    summary = summarise(out, shown_only=True)
    show_summary(summary, as_json)
    heartbeat = read_heartbeat(out, read_run(out))
    if heartbeat is not None and not as_json:
        ERR.print(cold_start(heartbeat))
    lost = list(_lost(out)) if verify else []
    for line in lost:
        ERR.print(line)
    raise typer.Exit(EXIT_FAILED if lost or (follow and summary.pending) else exit_code(summary))


def _lost(out: str) -> Iterator[str]:
    """Yield a line for each finished row whose video is lost, by one listing of the videos."""
    jobs = read_plan(out)
    try:
        problems = find_problems(Outputs(out), jobs)
    except OSError as error:
        raise ClusterError(f"{out}: finished videos cannot be checked: {error}") from error
    for job in jobs:
        if job.clip_key in problems:
            yield f"lost     {job.job_id}: {problems[job.clip_key]}; the next run makes the video again"


def _watch(out: str, *, quiet: bool) -> None:
    look, asked = None, False

    def ask(*_: object) -> None:  # a KeyboardInterrupt that is raised in a library's callback goes no further
        nonlocal asked
        asked = True

    def pause(seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not asked and time.monotonic() < ends:
            time.sleep(min(seconds, _TICK_S))

    before = signal.signal(signal.SIGINT, ask)
    try:
        with view(ERR, quiet=quiet) as show:
            for look in watch(out, sleep=pause):
                show(look.as_progress())
                if asked:
                    raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if look is not None and not look.is_over:
        ERR.print(f"the run has sent no progress for {SILENCE_S:.0f} s: it was killed, or its machine is gone")
