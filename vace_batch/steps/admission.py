"""Admit a row: which files and models it may name, and how large its files may be before they are fetched."""

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
    """Refuse a job that names a file, model or LoRA that the run does not allow.

    Links are followed; no file is opened.

    Raises:
        ClipError: `not_allowed` for a file outside `roots`, `model_not_allowed` for a model other than the run's,
            `weights_not_allowed` for a LoRA outside the folders of weights.
    """
    for file in job.files():
        if not roots.allow(file.uri):
            reason = f"{file.uri} lies outside of {roots}; if it may be read, give its folder by --allow-root"
            raise ClipError("not_allowed", f"{file.cell}: {reason}")
        _admit_folder(file.cell, file.uri, roots)
    if job.model not in (None, _EMBEDDED_MODEL, options.model) and not _is_among(job.model, options.weights_folders):
        known = f"neither the run's ({options.model}) nor a folder below a --weights FOLDER"
        reason = f"model: {job.model!r} is {known}"
        raise ClipError("model_not_allowed", reason)
    lora_refs(job, options)


def _admit_folder(column: str, uri: str, roots: Roots) -> None:
    """Refuse a folder of mask pictures with a link that leads outside the roots."""
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


def check_files(job: Job, limits: MediaLimits) -> None:
    """Refuse files that are missing, forbidden, empty or over `limits`, by one look at each; no file is opened.

    Raises:
        ClipError: `not_found`, `no_permission`, `empty_file`, `too_large`.
    """
    for file in job.files():
        try:
            size = storage.num_bytes(file.uri)
        except PermissionError:
            raise ClipError("no_permission", f"{file.cell}: {file.uri} may not be read", retryable=True) from None
        except (OSError, ValueError):
            raise ClipError("not_found", f"{file.cell}: no such file: {file.uri}") from None
        if size == 0 and file.column == "video_uri":
            raise ClipError("empty_file", f"{file.cell}: {file.uri} is empty")
    check_bytes(job, limits)


def check_bytes(job: Job, limits: MediaLimits) -> None:
    """Refuse files over `limits` before they are fetched; a missing file is reported when it is opened.

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
            raise ClipError("too_large", f"{file.cell}: {reason}; --limit max_bytes=N sets another")
