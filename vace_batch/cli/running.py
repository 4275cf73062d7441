"""What commands that run a batch have in common: how it is driven, stopped and summed up, and the exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from vace_batch.ledger.summary import Summary
from vace_batch.ledger.usage import cost_lines
from vace_batch.options import Options

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
OUT = Console(markup=False, highlight=False, soft_wrap=True)
ERR = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)


def run_batch(found: Any, out: str, options: Options, as_json: bool) -> None:
    """Run, or continue, a batch as a command does, and leave with its exit code.

    Raises:
        typer.Exit: always, once the batch has ended or was asked to stop.
        ManifestError, UsageError, ClusterError: as `open_batch` and `run_clips` do.
    """
    from vace_batch.batch.batch import close_batch, open_batch
    from vace_batch.batch.driver import run_clips
    from vace_batch.batch.heartbeat import Pulse
    from vace_batch.batch.pools import open_runtime
    from vace_batch.batch.progress import view

    with _stop_on_signals() as stopped, Pulse(out) as pulse:
        batch = open_batch(found, out, options)
        pulse.mark("planned")
        earlier = len(batch.works) - len(batch.pending)
        if earlier and not as_json:
            ERR.print(f"{earlier} of {len(batch.works)} rows were finished before")
        if batch.pending:
            with open_runtime(options, batch) as runtime, view(ERR, quiet=as_json) as show:
                pulse.mark("Ray")
                run_clips(batch, batch.pending, runtime, show=pulse.through(show), should_stop=stopped)
        summary = close_batch(batch)
    show_summary(summary, as_json)
    if not batch.pending and not as_json:
        ERR.print("nothing to do" + ("; `vace-batch retry` tries failed rows again" if summary.failed else ""))
    raise typer.Exit(EXIT_INTERRUPTED if stopped() else exit_code(summary))


def exit_code(summary: Summary) -> int:
    """Of a batch that has come to its end."""
    if summary.stopped:
        return EXIT_BUDGET
    return EXIT_FAILED if summary.failed else EXIT_DONE


def show_summary(summary: Summary, as_json: bool) -> None:
    """What a batch has come to, on standard output."""
    if as_json:
        sys.stdout.writelines(summary.as_json())
        sys.stdout.write("\n")
        return
    for job in summary.of("failed", "skipped"):
        code = f"{job['error_code']}: " if job["status"] == "failed" else ""
        OUT.print(f"{job['status']:8} {job['job_id']}: {code}{job['reason']}")
    if summary.verdicts.get("review", 0) + summary.verdicts.get("fail", 0):
        for job in summary.of("done", "skipped"):
            if job["verdict"] in ("review", "fail"):
                OUT.print(f"{job['verdict']:8} {job['job_id']}: {'; '.join(job['reasons'])}")
    OUT.print(str(summary))
    if summary.stopped:
        OUT.print(f"budget    {summary.pending} rows are left: {summary.stopped}")
    for line in cost_lines(summary.cost):
        OUT.print(line)


def print_json(value: Any) -> None:
    """One value, on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM asks for a clean stop; a second SIGINT stops at once."""
    asked = False

    def ask(signum: int, _: object) -> None:
        nonlocal asked
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        ERR.print("stopping: running steps may finish; the same command continues later")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
