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
    summary = summarise(out, shown_only=True)
    values = dict(values or {})
    wanted = tuple(rows) or (ROWS if jobs and values else ROWS[:2])
    if set(wanted) - set(ROWS):
        raise UsageError(f"expected rows that are {', '.join(ROWS)}, got {', '.join(sorted(set(wanted) - set(ROWS)))}")
    lost = find_problems(Outputs(out), read_plan(out))
    selected = {
        row["job_id"]: row for row in summary.jobs if _kind(row, lost) in wanted and (not jobs or row["job_id"] in jobs)
    }
    if unknown := set(jobs) - set(selected):
        raise UsageError(f"--job: expected {' or '.join(wanted)} rows of {out}, got {', '.join(sorted(unknown))}")
    kinds = {name: _kind(row, lost) for name, row in selected.items()}
    if not values and set(kinds.values()) - {"failed", "lost"}:
        raise UsageError("finished rows give the same output again unless a value changes: --set COLUMN=VALUE")
    options = Options.model_validate(run["options"])
    options = options.model_copy(update={"allow_roots": tuple(dict.fromkeys((*options.allow_roots, *roots)))})
    manifest = read_manifest(run["manifest"])
    chosen = [job for job in manifest.jobs if job.job_id in selected]
    folder = folder_of(manifest.uri)
    if gone := selected.keys() - {job.job_id for job in chosen}:
        raise UsageError(
            f"{manifest.uri}: expected the rows of the last run, these are gone: {', '.join(sorted(gone))}"
        )
    if values:
        _check(apply_overrides(chosen, out, folder), values, folder)
        _keep(out, {name for name, kind in kinds.items() if kind not in ("failed", "lost")})
        record_overrides(out, chosen, values)
    _forgive(out, selected.values(), (work.clip_key for work in works_of(chosen, out, options, folder)))
    return manifest, options


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
