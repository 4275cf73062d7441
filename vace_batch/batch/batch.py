"""Open and close a batch: give every job its identity, find the clips to run, write the results.

open_batch  ->  run_clips (any subset, any number of times, on any number of drivers)  ->  close_batch
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from vace_batch import log
from vace_batch.batch.identity import works_of
from vace_batch.batch.lost import reopen_lost
from vace_batch.errors import ClusterError, UsageError
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.records import read_records, read_tables
from vace_batch.ledger.results import write_results
from vace_batch.ledger.run_plan import PlannedJob, find_run, write_plan
from vace_batch.ledger.summary import Summary, summarise
from vace_batch.ledger.verdicts import Verdicts
from vace_batch.manifest.job import job_json
from vace_batch.manifest.reader import Manifest, read_manifest
from vace_batch.manifest.uris import folder_of
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.keep import kept_name
from vace_batch.steps.select_best import attempts_key
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries

_LOG = log.get_logger(__name__)

ManifestSource = Manifest | str | os.PathLike[str]
"""A manifest that was read, or the path or URI of its Parquet file."""


def open_manifest(source: ManifestSource) -> Manifest:
    """Read a manifest, unless `source` is one.

    Raises:
        ManifestError: with every fault of every row.
    """
    return source if isinstance(source, Manifest) else read_manifest(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A planned manifest and its output folder.

    `finished`: keys of clips that were done or failed before this run; `unkept`: keys of done clips whose masks are to
    be kept and are not kept yet.
    """

    out: str
    options: Options
    works: tuple[ClipWork, ...]
    planned: tuple[PlannedJob, ...]
    finished: frozenset[str]
    unkept: frozenset[str] = frozenset()

    @property
    def pending(self) -> tuple[ClipWork, ...]:
        """Clips to run, in the manifest's order."""
        ended = self.finished - self.unkept
        pairs = zip(self.works, self.planned, strict=True)
        return tuple(work for work, job in pairs if job.clip_key not in ended)


def open_batch(manifest: Manifest, out: str, options: Options, *, verify: bool = False) -> Batch:
    """Plan a manifest into an output folder; no clip is run yet.

    Finished clips whose video is missing, cut off or another become unfinished again. One listing tells; `verify` reads
    every video and every artifact.

    Raises:
        UsageError: a model is unknown or missing, the folder cannot be written, or a bound in money has no prices.
        ClusterError: a finished video cannot be read.
    """
    if options.budget.max_cost is not None and not options.prices.given:
        raise UsageError("--max-cost: needs prices, such as --price gpu_hour=2.5")
    try:
        find_run(out)  # an OUT that another version made is refused before any work
    except OSError as error:
        raise UsageError(f"{out}: cannot be read: {error}") from error
    works = works_of(manifest.jobs, out, options, folder_of(manifest.uri))
    planned: list[PlannedJob] = []

    def with_rows() -> Iterator[PlannedJob]:
        """Planned jobs with their manifest rows; rows are large, so `planned` holds the jobs without them."""
        for work in works:
            prep, clip = work.prep_key, work.clip_key
            job = PlannedJob(job_id=work.job.job_id, clip_key=clip, prep_key=prep, output=work.output, row="")
            planned.append(job)
            yield replace(job, row=job_json(work.job))

    run = {"manifest": manifest.uri, "manifest_digest": manifest.digest, "options": options.model_dump()}
    try:
        write_plan(out, with_rows(), run)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error}") from error
    works = _with_lost_reopened(out, works, planned, verify=verify)
    if options.quality.enabled:
        _measure_again(out, planned)
    finished = _finished(Ledger(out), options)
    unkept = _unkept(works, out) & finished if options.keep_masks else frozenset()
    return Batch(out=out, options=options, works=works, planned=tuple(planned), finished=finished, unkept=unkept)


def _with_lost_reopened(
    out: str, works: tuple[ClipWork, ...], planned: list[PlannedJob], *, verify: bool
) -> tuple[ClipWork, ...]:
    """Make lost clips unfinished, and return the works with the problems of the lost clips."""
    try:
        lost = reopen_lost(out, planned, whole=verify)
    except OSError as error:
        raise ClusterError(f"{out}: finished videos cannot be checked: {error}") from error
    pairs = zip(works, planned, strict=True)
    return tuple(replace(work, problem=lost[job.clip_key]) if job.clip_key in lost else work for work, job in pairs)


def _unkept(works: Iterable[ClipWork], out: str) -> frozenset[str]:
    """Keys of done clips whose masks were not kept, were kept in another form, or are missing."""
    names = {entry.name for entry in list_entries(storage.join(out, "masks"))}
    names |= {name.rsplit("/", 1)[0] for name in names}  # masks as a folder of files
    done = read_records(out, "done", "clip")
    recorded = {key: record.get("masks") for key, record in done if record["status"] == "done"}

    def is_kept(work: ClipWork) -> bool:
        name = kept_name(work)
        return recorded[work.clip_key] == name and name.removeprefix("masks/") in names

    return frozenset(work.clip_key for work in works if work.clip_key in recorded and not is_kept(work))


def _measure_again(out: str, planned: Iterable[PlannedJob]) -> None:
    """Take back the records of clips that the last run could not measure for a reason that says nothing about them."""
    flagged: set[str] = set()
    for table in read_tables(out, "done", "quality", ("key", "measure_again")):
        flagged |= set(table.filter(pc.fill_null(table["measure_again"], False))["key"].to_pylist())
    for job in planned:
        if quality_key(job.clip_key) in flagged:
            with log.bind(clip=job.job_id):
                _LOG.info("the last run could not measure the clip: measured again")
            Ledger(out).take_back(quality_key(job.clip_key))


def _finished(ledger: Ledger, options: Options) -> frozenset[str]:
    """Keys of clips without remaining work: failed, skipped, or done, measured, and passed or out of attempts."""
    done = ledger.keys("done", "clip")
    if options.quality.enabled:
        measured = ledger.keys("done", "quality")
        judged = {key for key in done if quality_key(key) in measured}
        if options.attempts.max_attempts > 1:
            attempted = ledger.keys("done", "attempts")
            passed = Verdicts(ledger.out, options.quality).passing()
            judged = {key for key in judged if key in passed or attempts_key(key, options) in attempted}
        done = judged | (_skipped(ledger.out) if len(judged) < len(done) else set())
    return frozenset(done | ledger.keys("quarantine", "clip"))


def _skipped(out: str) -> set[str]:
    """Keys of clips for which nothing was found, which are never measured."""
    tables = read_tables(out, "done", "clip", ("key", "status"))
    return {key for table in tables for key in table.filter(pc.equal(table["status"], "skipped"))["key"].to_pylist()}


def close_batch(batch: Batch) -> Summary:
    """Count the batch's jobs by their ledger records and write the results.

    A clip whose video was replaced or removed during the run, as by a run with other settings, is pending again.
    """
    reopen_lost(batch.out, batch.planned, remedy="run the same command again")
    summary = summarise(batch.out, batch.planned, compact=True)
    write_results(summary)
    return summary
