"""Choose a job's LoRAs: the LoRAs that its row names, else the run's LoRAs for its preset."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import replace

from vace_batch.errors import ClipError, UsageError
from vace_batch.manifest.job import Job, LoraRef
from vace_batch.manifest.presets import preset_name
from vace_batch.options import Options
from vace_batch.storage.roots import Roots
from vace_batch.vace import weights
from vace_batch.vcu.sampling import Lora


def lora_refs(job: Job, options: Options) -> tuple[LoraRef, ...]:
    """Return the LoRAs of `job` with their places: the row's, else the run's for all jobs and for the job's preset.

    Raises:
        ClipError: `weights_not_allowed`: the row names one that is neither the run's nor below its --weights.
    """
    if job.loras is not None:
        return tuple(replace(lora, uri=_allowed(lora.uri, options)) for lora in job.loras)
    preset = preset_name(job.task, job.preset)
    return tuple(
        LoraRef(uri=one.uri, weight=one.weight, expert=one.expert)
        for one in options.loras
        if one.preset in (None, preset)
    )


def resolve_loras(
    job: Job, options: Options, revision: Callable[[str], str] = weights.file_revision
) -> tuple[Lora, ...]:
    """Return the LoRAs of `job`, each with the identity of its file's content by `revision`.

    Raises:
        ClipError: as `lora_refs`, and `lora_unusable`: one of the row's is not there.
        UsageError: one of the run's is not there.
    """
    try:
        return tuple(
            Lora(uri=ref.uri, revision=revision(ref.uri), weight=ref.weight, expert=ref.expert)
            for ref in lora_refs(job, options)
        )
    except UsageError as error:
        if job.loras is None:
            raise
        raise ClipError("lora_unusable", str(error)) from error


def _allowed(name: str, options: Options) -> str:
    for option in options.loras:
        if name in (option.uri, posixpath.basename(option.uri)):
            return option.uri
    inside = list(_inside(name, options.weights_folders))
    if not inside:
        known = ", ".join([*(one.uri for one in options.loras), *options.weights_folders]) or "the run has neither"
        reason = f"loras: {name!r} is neither a --lora FILE of the run nor below a --weights FOLDER ({known})"
        raise ClipError("weights_not_allowed", reason)
    return next((uri for uri in inside if weights.is_there(uri)), inside[0])


def _inside(name: str, folders: Iterable[str]) -> Iterable[str]:
    """Yield `name` below each folder, unless the path leaves the folder."""
    for folder in folders:
        uri = weights.below(folder, name)
        if Roots.of([folder]).allow(weights.without_revision(uri)):
            yield uri
