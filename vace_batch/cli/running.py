"""Drive a batch for a command: progress, signals, summary and exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from vace_batch.batch.progress import view
from vace_batch.errors import LostError
from vace_batch.imports import quick_imports
from vace_batch.ledger.summary import Summary
from vace_batch.ledger.usage import cost_lines
from vace_batch.manifest.reader import Manifest
from vace_batch.options import Options

if TYPE_CHECKING:
    from vace_batch.batch.batch import Batch

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
EXIT_LOST = LostError.EXIT_CODE
OUT = Console(markup=False, highlight=False, soft_wrap=True)
ERR = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)


def run_batch(manifest: Manifest, out: str, options: Options, *, as_json: bool, verify: bool = False) -> int:
    """Run, or continue, a batch and print its summary; returns the exit code.

    Raises:
        ManifestError, UsageError, ClusterError: as `run` does.
    """
    with quick_imports():
        from vace_batch.batch.driver import run  # loads Ray

    num_pending = 0

    def announce(batch: Batch) -> None:
        nonlocal num_pending
        num_pending = len(batch.pending)
        num_finished = len(batch.works) - num_pending
        if num_finished and not as_json:
            ERR.print(f"{num_finished} of {len(batch.works)} rows were already finished")

    with _stop_on_signals() as stopped, view(ERR, quiet=as_json) as show:
        summary = run(manifest, out, options, show=show, should_stop=stopped, on_planned=announce, verify=verify)
    show_summary(summary, as_json)
    if not num_pending and not as_json:
        ERR.print("nothing to do" + ("; `vace-batch retry` runs failed rows again" if summary.failed else ""))
    if stopped():
        return EXIT_INTERRUPTED
    lost = summary.pending and not summary.stopped  # taken back at the end: their videos were replaced meanwhile
    return EXIT_FAILED if lost else exit_code(summary)


def exit_code(summary: Summary) -> int:
    """Exit code of a finished batch."""
    if summary.stopped:
        return EXIT_BUDGET
    return EXIT_FAILED if summary.failed else EXIT_DONE


def show_summary(summary: Summary, as_json: bool) -> None:
    """Print failed, skipped and doubtful clips, counters and costs on standard output."""
    if as_json:
        sys.stdout.writelines(summary.as_json())
        sys.stdout.write("\n")
        return
    for line in _clip_lines(summary):
        OUT.print(line)
    OUT.print(str(summary))
    if summary.stopped:
        OUT.print(f"budget    {summary.pending} rows are left: {summary.stopped}")
    for line in cost_lines(summary.cost):
        OUT.print(line)


def _clip_lines(summary: Summary) -> Iterator[str]:
    """Lines for failed and skipped clips, then for finished clips that a person must review."""
    for job in summary.of("failed", "skipped"):
        code = f"{job['error_code']}: " if job["status"] == "failed" else ""
        yield f"{job['status']:8} {job['job_id']}: {code}{job['reason']}"
    if not summary.verdicts.get("review", 0) + summary.verdicts.get("fail", 0):
        return
    for job in summary.of("done"):
        if job["verdict"] in ("review", "fail"):
            yield f"{job['verdict']:8} {job['job_id']}: {'; '.join(job['reasons'])}"


def print_json(value: object) -> None:
    """Print one value as a line of JSON on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ask for a clean stop at the first SIGINT or SIGTERM; stop at once at a second SIGINT."""
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
