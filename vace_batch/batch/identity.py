"""Give every job of a manifest its identity: fingerprints, model revision, limits and sampling."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, lru_cache

from vace_batch.errors import ClipError, ClusterError
from vace_batch.ledger.overrides import apply_overrides
from vace_batch.manifest.job import Job
from vace_batch.manifest.output_names import safe_name
from vace_batch.manifest.presets import with_preset
from vace_batch.manifest.video_suffixes import (
    DEFAULT_SUFFIX,
    MAGIC_BYTES,
    VIDEO_SUFFIXES,
    suffix_by_content,
    suffix_of,
)
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.planning.windows import Limits
from vace_batch.quality.remedies import Remedy
from vace_batch.steps.admission import admit
from vace_batch.steps.clip import ClipWork, control_models
from vace_batch.storage import files as storage
from vace_batch.storage.roots import Roots
from vace_batch.vace import profiles, weights
from vace_batch.vace.loras import resolve_loras


def works_of(jobs: Sequence[Job], out: str, options: Options, folder: str) -> tuple[ClipWork, ...]:
    """Every job with its identity: fingerprints of what it reads, its model's revision, limits and sampling.

    A job may read below `folder`, which is the manifest's, below `out` and below the options' roots. What `retry`
    changed of rows in this output is changed.

    Raises:
        ManifestError: a changed value is not allowed any more.
        UsageError: a model is not known or not there.
        ClusterError: a storage does not answer.
    """
    jobs = apply_overrides(jobs, out, folder) if out else jobs
    roots = Roots.of([root for root in (folder, out, *options.allow_roots) if root])
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        lora_revision = cache(weights.file_revision)  # asked once for all jobs
        return tuple(pool.map(lambda job: _work(job, out, options, roots, lora_revision), jobs))


def _work(job: Job, out: str, options: Options, roots: Roots, lora_revision: Callable[[str], str]) -> ClipWork:
    job, model = with_preset(job, options.presets), job.model or options.model
    refused: ClipError | None = None
    try:
        admit(job, roots, options)
        fingerprints, loras = _fingerprints(job, options), resolve_loras(job, options, lora_revision)
        sampling = replace(_model(model)[0].sampling(job.task, job.sampling), loras=loras)
    except ClipError as error:  # `prepare` tells the row; what may not be read is not looked at either
        refused = error.with_traceback(None)
        fingerprints = {}
        model = options.model
        sampling = _model(model)[0].sampling(job.task)
    except OSError as error:
        raise ClusterError(f"{job.job_id}: a file cannot be looked at: {error}") from error
    return ClipWork(
        job=job,
        out=out,
        output=f"videos/{job.output_uri or safe_name(job.job_id) + _suffix(job.video_uri, refused is not None)}",
        options=options,
        roots=roots,
        fingerprints=fingerprints,
        model=model,
        revision=_model(model)[1],
        limits=_limits(job, model),
        sampling=sampling,
        refused=refused,
    )


def _limits(job: Job, model: str) -> Limits:
    profile, asked = _model(model)[0], job.sampling
    return Limits(
        max_tokens=min(profile.max_tokens, asked.max_tokens or profile.max_tokens),
        max_frames=asked.max_frames or profile.max_frames,
        overlap_frames=profile.overlap_frames if asked.overlap_frames is None else asked.overlap_frames,
        min_side=profile.min_side,
        bridging=profile.bridging,
        widest_hole_px=profile.widest_hole_px,
    )


def another_attempt(work: ClipWork, remedy: Remedy, output: str) -> ClipWork:
    """The work of the clip's next attempt, on the same sources, written to `output`.

    Raises:
        ClipError: the model or the LoRAs cannot be used for it.
        UsageError: they are not there.
    """
    job = with_preset(remedy.job, work.options.presets)
    loras = resolve_loras(job, work.options) if remedy.name == "removal-lora" else work.sampling.loras
    return replace(
        work,
        job=job,
        output=output,
        model=remedy.model,
        revision=_model(remedy.model)[1],
        limits=_limits(job, remedy.model),
        sampling=replace(_model(remedy.model)[0].sampling(job.task, job.sampling), loras=loras),
    )


@lru_cache(maxsize=64)
def _model(ref: str) -> tuple[profiles.ModelProfile, str]:
    return profiles.profile(ref), profiles.revision(ref)


def _fingerprints(job: Job, options: Options) -> dict[str, str]:
    uris: dict[str, str | None] = {file.fingerprint_name: file.uri for file in job.files()}
    uris |= mask_models(options).weights_of(job)
    uris |= control_models(options).weights_of(job.controls, job.control_weights)
    return {name: storage.fingerprint(uri) for name, uri in uris.items() if uri is not None}


def _suffix(uri: str, refused: bool) -> str:
    """The output's suffix: the source's where it names a container, else by the file's first bytes."""
    suffix = suffix_of(uri)
    if suffix in VIDEO_SUFFIXES:
        return suffix
    if refused:
        return DEFAULT_SUFFIX
    try:
        return suffix_by_content(storage.read_head(uri, MAGIC_BYTES))
    except OSError:
        return DEFAULT_SUFFIX


def mask_models(options: Options) -> MaskModels:
    """Which weights the masks of a run may be made with."""
    return MaskModels(
        detector=options.detector,
        segmenter=options.segmenter,
        folders=options.weights_folders,
        pickles=options.pickles,
        every=options.detect_every,
        tracker=options.tracker,
    )
