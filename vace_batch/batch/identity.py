"""Give every job of a manifest its identity: fingerprints, model revision, limits and sampling."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

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
from vace_batch.planning.windows import WindowLimits
from vace_batch.quality.remedies import Remedy
from vace_batch.steps.admission import admit
from vace_batch.steps.clip import ClipWork, control_models
from vace_batch.storage import files as storage
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.roots import Roots
from vace_batch.vace import profiles, weights
from vace_batch.vace.loras import resolve_loras


@dataclass(frozen=True, slots=True)
class Model:
    """A model's profile and the revision of its weights."""

    profile: profiles.ModelProfile
    revision: str


ReadModel = Callable[[str], Model]


def read_model(ref: str) -> Model:
    """Read profile and revision of the model `ref`.

    Raises:
        UsageError: the model is unknown or missing.
    """
    return Model(profiles.profile(ref), profiles.revision(ref))


def model_reader() -> ReadModel:
    """`read_model` that reads each model once. Make one for each batch: a model's folder may change between two."""
    return cache(read_model)


def works_of(jobs: Sequence[Job], out: str, options: Options, folder: str) -> tuple[ClipWork, ...]:
    """Give every job its identity: fingerprints of its files, its model's revision, limits and sampling.

    A job may read below the manifest's `folder`, below `out` and below the options' roots. Rows that `retry` changed
    in this output are changed.

    Raises:
        ManifestError: a changed value is no longer allowed.
        UsageError: a model is unknown or missing.
        ClusterError: a storage does not answer.
    """
    if out:
        jobs = apply_overrides(jobs, out, folder)
    batch = _Batch(
        out=out and storage.absolute(out),  # Ray's workers may have another working directory
        options=options,
        roots=Roots.of([root for root in (folder, out, *options.allow_roots) if root]),
        read_model=model_reader(),
        lora_revision=cache(weights.file_revision),
    )
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        return tuple(pool.map(batch.work_of, jobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Values that all jobs of a batch share."""

    out: str
    options: Options
    roots: Roots
    read_model: ReadModel
    lora_revision: Callable[[str], str]

    def work_of(self, job: Job) -> ClipWork:
        """Identity of one job; a job that may not be run gets the reason instead of fingerprints."""
        name = job.model or self.options.model
        job = with_preset(job, self.options.presets)
        fingerprints: dict[str, str] = {}
        refused: ClipError | None = None
        try:
            admit(job, self.roots, self.options)
            fingerprints = _fingerprints(job, self.options)
            loras = resolve_loras(job, self.options, self.lora_revision)
            model = self.read_model(name)
            sampling = replace(model.profile.sampling(job.task, job.sampling), loras=loras)
        except ClipError as error:  # `prepare` fails the row; files of a refused job are not read
            refused = error.with_traceback(None)
            fingerprints = {}
            name = self.options.model
            model = self.read_model(name)
            sampling = model.profile.sampling(job.task)
        except OSError as error:
            raise ClusterError(f"{job.job_id}: a file cannot be read: {error}") from error
        output = job.output_uri or safe_name(job.job_id) + _suffix(job.video_uri, refused is not None)
        return ClipWork(
            job=job,
            out=self.out,
            output=f"videos/{output}",
            options=self.options,
            roots=self.roots,
            fingerprints=fingerprints,
            model=name,
            revision=model.revision,
            limits=_limits(job, model.profile),
            sampling=sampling,
            refused=refused,
        )


def _limits(job: Job, profile: profiles.ModelProfile) -> WindowLimits:
    """WindowLimits of a window: the job's where it names some, else the model's."""
    sampling = job.sampling
    return WindowLimits(
        max_tokens=min(profile.max_tokens, sampling.max_tokens or profile.max_tokens),
        max_frames=sampling.max_frames or profile.max_frames,
        overlap_frames=profile.overlap_frames if sampling.overlap_frames is None else sampling.overlap_frames,
        min_side=profile.min_side,
        bridging=profile.bridging,
        widest_hole_px=profile.widest_hole_px,
    )


def another_attempt(work: ClipWork, remedy: Remedy, output: str, read_model: ReadModel = read_model) -> ClipWork:
    """Make the work of a clip's next attempt, on the same sources, written to `output`.

    Raises:
        ClipError: the model or the LoRAs cannot be used for this clip.
        UsageError: the model or a LoRA is missing.
    """
    job = with_preset(remedy.job, work.options.presets)
    loras = resolve_loras(job, work.options) if remedy.name == "removal-lora" else work.sampling.loras
    model = read_model(remedy.model)
    return replace(
        work,
        job=job,
        problem=None,
        output=output,
        model=remedy.model,
        revision=model.revision,
        limits=_limits(job, model.profile),
        sampling=replace(model.profile.sampling(job.task, job.sampling), loras=loras),
    )


def _fingerprints(job: Job, options: Options) -> dict[str, str]:
    uris: dict[str, str | None] = {file.fingerprint_name: file.uri for file in job.files()}
    uris |= mask_models(options).weights_of(job)
    uris |= control_models(options).weights_of(job.controls, job.control_weights)
    return {name: fingerprint(uri) for name, uri in uris.items() if uri is not None}


def _suffix(uri: str, refused: bool) -> str:
    """Suffix of the output: the source's if it names a video container, else by the file's first bytes."""
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
    """Weights and settings of the models that make a run's masks."""
    return MaskModels(
        detector=options.detector,
        segmenter=options.segmenter,
        folders=options.weights_folders,
        pickles=options.pickles,
        every=options.detect_every,
        tracker=options.tracker,
        exact=options.engine.deterministic,
    )
