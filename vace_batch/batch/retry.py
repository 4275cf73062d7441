"""Makes rows of the last run unfinished again, so that they run anew, optionally with changed values."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

from vace_batch.batch.identity import works_of
from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.outputs import Outputs, find_problems
from vace_batch.ledger.overrides import apply_overrides, record_overrides, with_values
from vace_batch.ledger.run_plan import read_plan, read_run
from vace_batch.ledger.schema import JobRow
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.job import Job
from vace_batch.manifest.reader import Manifest, read_manifest
from vace_batch.manifest.uris import folder_of
from vace_batch.options import Options
from vace_batch.steps.select_best import set_aside

ROWS = ("failed", "lost", "fail", "review")
"""The kinds of rows that may run again: failed rows, finished ones whose video is missing or another, and finished ones
by their verdict."""

_UNFINISHED = ("failed", "lost")


def prepare_retry(
    out: str,
    *,
    jobs: Collection[str] = (),
    rows: Collection[str] = (),
    values: Mapping[str, object] | None = None,
    roots: Iterable[str] = (),
) -> tuple[Manifest, Options]:
    """Make rows of the last run on OUT unfinished again. Returns that run's manifest and options, to be run again.

    `jobs`: only rows with these ids. `rows`: the kinds of rows, of `ROWS`; by default failed and lost ones, or with
    both `values` and `jobs` all kinds. `values` replace the manifest's values in those rows, in this and all later
    runs. The present output of a finished row is kept in OUT/attempts.

    Raises:
        UsageError: no such rows exist, or finished rows are to be run again unchanged.
        ManifestError: with every fault of the changed rows.
    """
    run = read_run(out)
    values = dict(values or {})
    kinds = tuple(rows) or _default_kinds(jobs, values)
    selected = _select(out, jobs, kinds)
    finished = {job_id for job_id, (_, kind) in selected.items() if kind not in _UNFINISHED}
    if finished and not values:
        raise UsageError("finished rows give the same output again unless a value changes: --set COLUMN=VALUE")
    options = _with_roots(Options.model_validate(run["options"]), roots)
    manifest = read_manifest(run["manifest"])
    chosen = _jobs_of(manifest, selected)
    folder = folder_of(manifest.uri)
    if values:
        _check(apply_overrides(chosen, out, folder), values, folder)
        _keep(out, finished)
        record_overrides(out, chosen, values)
    _forgive(
        out, (row for row, _ in selected.values()), (work.clip_key for work in works_of(chosen, out, options, folder))
    )
    return manifest, options


def _default_kinds(jobs: Collection[str], values: Mapping[str, object]) -> tuple[str, ...]:
    return ROWS if jobs and values else _UNFINISHED


def _select(out: str, jobs: Collection[str], kinds: Sequence[str]) -> dict[str, tuple[JobRow, str]]:
    """Select the rows of the last run that have one of the kinds and, if `jobs` are given, one of these ids."""
    if unknown_kinds := set(kinds) - set(ROWS):
        raise UsageError(f"expected rows that are {', '.join(ROWS)}, got {', '.join(sorted(unknown_kinds))}")
    lost = find_problems(Outputs(out), read_plan(out))
    all_rows = {row["job_id"]: (row, _kind(row, lost)) for row in summarise(out, shown_only=True).jobs}
    of_kind = {job_id: pair for job_id, pair in all_rows.items() if pair[1] in kinds}
    if unknown := set(jobs) - set(of_kind):
        raise UsageError(f"--job: expected {' or '.join(kinds)} rows of {out}, got {', '.join(sorted(unknown))}")
    return {job_id: pair for job_id, pair in of_kind.items() if job_id in jobs} if jobs else of_kind


def _with_roots(options: Options, roots: Iterable[str]) -> Options:
    """Add allowed roots to the options."""
    return options.model_copy(update={"allow_roots": tuple(dict.fromkeys((*options.allow_roots, *roots)))})


def _jobs_of(manifest: Manifest, job_ids: Collection[str]) -> list[Job]:
    """Return the manifest's jobs of these ids.

    Raises:
        UsageError: the manifest has lost some of these rows since the last run.
    """
    chosen = [job for job in manifest.jobs if job.job_id in job_ids]
    if gone := set(job_ids) - {job.job_id for job in chosen}:
        raise UsageError(
            f"{manifest.uri}: rows of the last run are missing from the manifest: {', '.join(sorted(gone))}"
        )
    return chosen


def _kind(row: JobRow, lost: Container[str]) -> str:
    if row["status"] == "failed":
        return "failed"
    return "lost" if row["clip_key"] in lost else row["verdict"] or "pass"


def _check(jobs: Sequence[Job], values: Mapping[str, object], folder: str) -> None:
    faults: list[Fault] = []
    for job in jobs:
        try:
            with_values(job, values, folder)
        except ManifestError as error:
            faults += error.faults
    if faults:
        raise ManifestError(faults)


def _keep(out: str, job_ids: Collection[str]) -> None:
    for planned in read_plan(out):
        if planned.job_id in job_ids:
            set_aside(Ledger(out), planned)


def _forgive(out: str, rows: Iterable[JobRow], keys: Iterator[str]) -> None:
    """Clear the failures of rows, under their old and their new keys."""
    ledger = Ledger(out)
    for key in {*(row["clip_key"] for row in rows if row["status"] == "failed"), *keys}:
        ledger.forgive(key)
