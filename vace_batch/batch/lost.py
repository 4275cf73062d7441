"""Reopen lost clips: finished clips whose video is missing, cut off or replaced, so that a run makes them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vace_batch import log
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.outputs import Outputs, find_problems
from vace_batch.ledger.run_plan import PlannedJob
from vace_batch.ledger.verify import artifact_problem, artifact_problems
from vace_batch.quality.remedies import FIRST
from vace_batch.steps.select_best import attempt_name
from vace_batch.storage import files as storage

_LOG = log.get_logger(__name__)


def reopen_lost(
    out: str, jobs: Iterable[PlannedJob], *, whole: bool = False, remedy: str = "made again"
) -> dict[str, str]:
    """Make lost clips unfinished: take back their records, and those of their windows whose artifacts are lost.

    One listing of the videos is compared with the records; `whole` reads every video and every artifact. `remedy` ends
    the warning about each lost clip. Returns their problems by clip key.
    """
    jobs = list(jobs)
    ledger, outputs = Ledger(out), Outputs(out)
    if whole:
        for key, problem in artifact_problems(out):
            _LOG.warning("%s; made again where a clip needs the file", problem)
            ledger.take_back(key)
    problems = find_problems(outputs, jobs, whole=whole, refresh=True)
    for job in jobs:
        if job.clip_key in problems:
            with log.bind(clip=job.job_id):
                _LOG.warning("%s: not finished; %s", problems[job.clip_key], remedy)
            ledger.note_mishap(job.clip_key, step="verify", traceback=problems[job.clip_key])
            _reopen(ledger, outputs, job)
    return problems


def _reopen(ledger: Ledger, outputs: Outputs, job: PlannedJob) -> None:
    """Take back a clip's records. The clip's own record goes last: after a crash the clip is found again."""
    for record in outputs.attempts_of(job.clip_key):
        for attempt in record["attempts"][1:]:
            key = attempt["clip_key"]
            if outputs.is_done(key) and outputs.own_problem(key, attempt["output"]) is not None:
                _take_back(ledger, key)
        ledger.take_back(record["key"])
    storage.delete(ledger.absolute(attempt_name(job, FIRST)))
    _take_back(ledger, job.clip_key, job.prep_key)


def _take_back(ledger: Ledger, clip_key: str, prep_key: str | None = None) -> None:
    for key in _window_keys(ledger, clip_key, prep_key):
        if artifact_problem(ledger, key) is not None:
            ledger.take_back(key)
    ledger.take_back(quality_key(clip_key))
    ledger.take_back(clip_key)


def _window_keys(ledger: Ledger, clip_key: str, prep_key: str | None) -> Iterator[str]:
    """List the keys of the records that the clip is made from."""
    record = ledger.clip(clip_key)
    yield from (row["key"] for row in (record or {}).get("window_rows", []))
    if prep_key is not None:
        yield prep_key
