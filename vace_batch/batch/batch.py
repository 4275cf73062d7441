"""Run a batch: give every job its identity, skip what the ledger has, run the rest as units, write the results.

open_batch  ->  run_clips (any subset, any number of times, on any number of drivers)  ->  close_batch
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vace_batch.batch.identity import works_of
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.records import read_records
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
    """A planned manifest and its output folder. `finished` are the clips that were done or failed before this run, and
    `unkept` those done clips whose masks are asked for and not kept yet."""

    out: str
    options: Options
    works: tuple[ClipWork, ...]
    planned: tuple[PlannedJob, ...]
    finished: frozenset[str]
    unkept: frozenset[str] = frozenset()

    @property
    def pending(self) -> tuple[ClipWork, ...]:
        planned, ended = zip(self.works, self.planned, strict=True), self.finished - self.unkept
        return tuple(work for work, job in planned if job.clip_key not in ended)


def open_batch(manifest: Manifest, out: str, options: Options) -> Batch:
    """Plan a manifest into an output folder; nothing is run yet.

    Raises:
        UsageError: a model is not known or not there, the folder cannot be written, or a bound in money has no
            prices.
    """
    if options.budget.max_cost is not None and not options.prices.given:
        raise UsageError("--max-cost: expected prices to reckon with, such as --price gpu_hour=2.5; got none")
    find_run(out)  # an OUT that another version made is refused before any work
    works = works_of(manifest.jobs, out, options, folder_of(manifest.uri))
    planned = list[PlannedJob]()

    def with_rows() -> Iterator[PlannedJob]:
        """Each job's row goes into the plan and is not kept: it is most of what there is to say of a job."""
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
    ledger = Ledger(out)
    finished = _finished(ledger, options)
    unkept = _unkept(works, out) & finished if options.keep_masks else frozenset()
    return Batch(out=out, options=options, works=works, planned=tuple(planned), finished=finished, unkept=unkept)


def _unkept(works: Iterable[ClipWork], out: str) -> frozenset[str]:
    """Done clips whose masks were kept in no or in another form, or are no longer there."""
    there = {entry.name for entry in storage.list_entries(storage.join(out, "masks"))}
    there |= {name.rsplit("/", 1)[0] for name in there}
    said = {key: record.get("masks") for key, record in read_records(out, "done", "clip") if record["status"] == "done"}
    names = ((work.clip_key, kept_name(work)) for work in works)
    return frozenset(
        key for key, name in names if key in said and not (said[key] == name and name.removeprefix("masks/") in there)
    )


def _finished(ledger: Ledger, options: Options) -> frozenset[str]:
    """Clips that nothing is left to do for: failed, or done, measured and either good enough or tried often enough."""
    done, failed = ledger.keys("done", "clip"), ledger.keys("quarantine", "clip")
    if options.quality.enabled:
        measured = ledger.keys("done", "quality")
        done = {key for key in done if quality_key(key) in measured}
        if options.attempts.max_attempts > 1:
            climbed, passed = ledger.keys("done", "attempts"), Verdicts(ledger.out, options.quality).passing()
            done = {key for key in done if key in passed or attempts_key(key, options) in climbed}
    return frozenset(done | failed)


def close_batch(batch: Batch) -> Summary:
    """Count what the ledger says of the batch's jobs and write the results."""
    summary = summarise(batch.out, batch.planned, compact=True)
    write_results(summary)
    return summary
