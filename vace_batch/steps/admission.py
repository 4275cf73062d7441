"""What is let in: which files a row may name, and how large they may be before they are fetched."""

from __future__ import annotations

import os

from vace_batch.errors import ClipError
from vace_batch.manifest.job import Job
from vace_batch.options import MediaLimits, Options
from vace_batch.storage import files as storage
from vace_batch.storage.roots import Roots
from vace_batch.vace.loras import lora_refs
from vace_batch.vace.weights import without_revision

_EMBEDDED_MODEL = "tiny"


def admit(job: Job, roots: Roots, options: Options) -> None:
    """Refuse a job that names what the run was not given; nothing is opened, links are followed.

    Raises:
        ClipError: `not_allowed` for a file outside `roots`, `model_not_allowed` for a model that is not the run's,
            `weights_not_allowed` for LoRAs that are not.
    """
    for file in job.files():
        if not roots.allow(file.uri):
            reason = f"{file.uri} lies outside of {roots}; if it may be read, give its folder by --allow-root"
            raise ClipError("not_allowed", f"{file.cell}: {reason}")
        _admit_folder(file.cell, file.uri, roots)
    if job.model not in (None, _EMBEDDED_MODEL, options.model) and not _is_among(job.model, options.weights_folders):
        reason = f"model: {job.model!r} is neither the run's ({options.model}) nor a folder below one of --weights"
        raise ClipError("model_not_allowed", reason)
    lora_refs(job, options)


def _admit_folder(column: str, uri: str, roots: Roots) -> None:
    """A folder of mask pictures may hold links, too."""
    if not storage.is_local(uri) or not os.path.isdir(uri):
        return
    with os.scandir(uri) as entries:
        for entry in entries:
            if entry.is_symlink() and not roots.allow(entry.path):
                raise ClipError("not_allowed", f"{column}: {entry.path} leads outside of {roots}")


def _is_among(model: str | None, folders: tuple[str, ...]) -> bool:
    if model is None or not (os.path.isabs(model) or "://" in model):
        return False
    return Roots.of(folders).allow(without_revision(model))


def check_bytes(job: Job, limits: MediaLimits) -> None:
    """Refuse files over `limits` before they are fetched; one that is not there is told of when it is opened.

    Raises:
        ClipError: `too_large`.
    """
    for file in job.files():
        try:
            size = storage.num_bytes(file.uri)
        except OSError:
            continue
        if size > limits.max_bytes:
            reason = f"{file.uri} has {size:,} bytes, the limit is {limits.max_bytes:,}"
            raise ClipError("too_large", f"{file.cell}: {reason}")
