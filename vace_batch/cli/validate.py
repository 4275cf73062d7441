"""The command `vace-batch validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from vace_batch.cli.options import FINDERS, PIXELS, PLACES, ManifestArg, with_options
from vace_batch.cli.running import ERR, EXIT_FAILED, OUT
from vace_batch.errors import ClipError
from vace_batch.manifest.job import Job
from vace_batch.manifest.reader import Manifest, read_manifest
from vace_batch.manifest.uris import folder_of
from vace_batch.options import Options
from vace_batch.steps.admission import admit, check_files
from vace_batch.steps.needed_weights import check_weights
from vace_batch.storage.roots import Roots

_LOOKS_AT_ONCE = 16


@with_options(*FINDERS, *PLACES, *PIXELS)
def validate(
    manifest: ManifestArg,
    options: Options,
    files: Annotated[
        bool,
        typer.Option("--files", help="Also look for each file: missing, forbidden, empty or too large."),
    ] = False,
) -> None:
    """Check a manifest, and with a run's options each row's weights, model and places; opens no video."""
    source = read_manifest(manifest)
    refused = list(refusals(source, options, files=files))
    for line in refused:
        ERR.print(line)
    if refused:
        OUT.print(f"{manifest}: {len(source.jobs)} rows, {len(refused)} would fail with these options")
        raise typer.Exit(EXIT_FAILED)
    tasks = ", ".join(f"{count} {task}" for task, count in sorted(Counter(job.task for job in source.jobs).items()))
    OUT.print(f"{manifest}: {len(source.jobs)} rows, no faults ({tasks})")


def refusals(manifest: Manifest, options: Options, *, files: bool = False) -> Iterator[str]:
    """Yield a line for each row that a run with `options` would refuse before it opens the row's video.

    `files`: look for each file as well, several rows at a time.
    """
    roots = Roots.of([folder_of(manifest.uri), *options.allow_roots])

    def refusal(job: Job) -> str | None:
        try:
            admit(job, roots, options)
            check_weights(job, options)
            if files:
                check_files(job, options.media)
        except ClipError as error:
            return f"row {job.row} ({job.job_id}): {error.code}: {error.reason}"
        return None

    with ThreadPoolExecutor(_LOOKS_AT_ONCE if files else 1) as pool:
        yield from filter(None, pool.map(refusal, manifest.jobs))
