"""Run a batch: give every job its identity, skip what the ledger has, run the rest as units, write the results.

open_batch  ->  run_clips (any subset, any number of times, on any number of drivers)  ->  close_batch
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from vace_batch import log, profiles, results, storage, weights
from vace_batch.access import Roots
from vace_batch.budget import Budget
from vace_batch.changes import with_changes
from vace_batch.cluster.metrics import Metrics
from vace_batch.cluster.resources import count_gpus
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.units import ActorDied, ActorReady, ActorWaiting, Event, PoolSpec, UnitDone
from vace_batch.cluster.units import Limits as DispatchLimits
from vace_batch.config import Options
from vace_batch.errors import ClipError, ClusterError, UsageError
from vace_batch.eventlog import EventLog
from vace_batch.graph import ClipGraph as ClipGraph
from vace_batch.intake import admit, refusal
from vace_batch.job import Job, job_json
from vace_batch.judging import ladder_key
from vace_batch.ladder import Step
from vace_batch.loras import resolve_loras
from vace_batch.manifest import Manifest
from vace_batch.manifest_uri import folder_of
from vace_batch.masks.source import MaskModels
from vace_batch.naming import safe_name
from vace_batch.plan import Limits
from vace_batch.progress import Progress, Show
from vace_batch.records import read_records
from vace_batch.results import Ledger, PlannedJob, Summary
from vace_batch.review import kept_name
from vace_batch.spending import Spending, open_budget
from vace_batch.verdicts import Verdicts, quality_key
from vace_batch.work import ClipWork, control_models

_LOG = log.get_logger(__name__)

_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mxf", ".mpg", ".ogv"})
_MAGIC = {b"\x1aE\xdf\xa3": ".mkv", b"RIFF": ".avi", b"G": ".ts"}


# --- identity --------------------------------------------------------------------------------------------------------


def works_of(jobs: Sequence[Job], out: str, options: Options, folder: str) -> tuple[ClipWork, ...]:
    """Every job with its identity: fingerprints of what it reads, its model's revision, limits and sampling.

    A job may read below `folder`, which is the manifest's, below `out` and below the options' roots. What `retry`
    changed of rows in this output is changed.

    Raises:
        ManifestError: a changed value is not allowed any more.
        UsageError: a model is not known or not there.
        ClusterError: a storage does not answer.
    """
    jobs = with_changes(jobs, out, folder) if out else jobs
    roots = Roots.of([root for root in (folder, out, *options.allow_roots) if root])
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        lora_revision = cache(weights.file_revision)  # asked once for all jobs
        return tuple(pool.map(lambda job: _work(job, out, options, roots, lora_revision), jobs))


def _work(job: Job, out: str, options: Options, roots: Roots, lora_revision: Callable[[str], str]) -> ClipWork:
    job, model = profiles.with_preset(job, options.presets), job.model or options.model
    try:
        admit(job, roots, options)
        fingerprints, loras = _fingerprints(job, options), resolve_loras(job, options, lora_revision)
        sampling = replace(_model(model)[0].sampling(job.task, job.sampling), loras=loras)
    except ClipError as error:  # `prepare` tells the row; what may not be read is not looked at either
        fingerprints, model = refusal(error), options.model
        sampling = _model(model)[0].sampling(job.task)
    except OSError as error:
        raise ClusterError(f"{job.job_id}: a file cannot be looked at: {error}") from error
    return ClipWork(
        job=job,
        out=out,
        output=f"videos/{job.output_uri or safe_name(job.job_id) + _suffix(job.video_uri, 'refused' in fingerprints)}",
        options=options,
        roots=roots,
        fingerprints=fingerprints,
        model=model,
        revision=_model(model)[1],
        limits=_limits(job, model),
        sampling=sampling,
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


def another_attempt(work: ClipWork, step: Step, output: str) -> ClipWork:
    """The work of the clip's next attempt, on the same sources, written to `output`.

    Raises:
        ClipError: the model or the LoRAs cannot be used for it.
        UsageError: they are not there.
    """
    job = profiles.with_preset(step.job, work.options.presets)
    loras = resolve_loras(job, work.options) if step.rung == "removal-lora" else work.sampling.loras
    return replace(
        work,
        job=job,
        output=output,
        model=step.model,
        revision=_model(step.model)[1],
        limits=_limits(job, step.model),
        sampling=replace(_model(step.model)[0].sampling(job.task, job.sampling), loras=loras),
    )


@lru_cache(maxsize=64)
def _model(ref: str) -> tuple[profiles.ModelProfile, str]:
    return profiles.profile(ref), profiles.revision(ref)


def _fingerprints(job: Job, options: Options) -> dict[str, str]:
    uris = {"video_uri": job.video_uri, "mask_uri": job.mask_uri, "protect.mask_uri": job.protect.mask_uri}
    uris |= {f"reference_uris.{number}": uri for number, uri in enumerate(job.reference_uris)}
    uris |= {f"reference_mask_uris.{number}": uri for number, uri in enumerate(job.reference_mask_uris)}
    uris |= mask_models(options).weights_of(job)
    uris |= control_models(options).weights_of(job.controls, job.control_weights)
    return {name: storage.fingerprint(uri) for name, uri in uris.items() if uri is not None}


def _suffix(uri: str, refused: bool) -> str:
    """The output's suffix: the source's where it names a container, else by the file's first bytes."""
    suffix = os.path.splitext(uri)[1].lower()
    if suffix in _SUFFIXES:
        return suffix
    if refused:
        return ".mp4"
    try:
        head = storage.read_head(uri, 16)
    except OSError:
        return ".mp4"
    return next((found for magic, found in _MAGIC.items() if head.startswith(magic)), ".mp4")


# --- open, close -----------------------------------------------------------------------------------------------------


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
    works = works_of(manifest.jobs, out, options, folder_of(manifest.uri))
    planned = list[PlannedJob]()

    def with_rows() -> Iterator[PlannedJob]:
        """Each job's row goes into the plan and is not kept: it is most of what there is to say of a job."""
        for work in works:
            prep, clip = work.keys()
            job = PlannedJob(job_id=work.job.job_id, clip_key=clip, prep_key=prep, output=work.output, row="")
            planned.append(job)
            yield replace(job, row=job_json(work.job))

    run = {"manifest": manifest.uri, "manifest_digest": manifest.digest, "options": options.model_dump()}
    try:
        results.write_plan(out, with_rows(), run)
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
        if options.ladder.max_attempts > 1:
            climbed, passed = ledger.keys("done", "ladder"), Verdicts(ledger.out, options.quality).passing()
            done = {key for key in done if key in passed or ladder_key(key, options) in climbed}
    return frozenset(done | failed)


def close_batch(batch: Batch) -> Summary:
    """Count what the ledger says of the batch's jobs and write the results."""
    summary = results.summarise(batch.out, batch.planned, compact=True)
    results.write_results(summary)
    return summary


# --- running ---------------------------------------------------------------------------------------------------------

DRAIN_GRACE_S = 20.0
"""For running steps after SIGTERM: Kubernetes kills after 30 s, and stopping Ray and writing results take some, too."""


def pools_of(options: Options, machine_gpus: int, batch: Batch | None = None) -> tuple[PoolSpec, PoolSpec]:
    """The CPU and the GPU pool. Without a GPU the same VACE actor runs on one CPU core.

    The prompts of `batch` are embedded before the model is loaded, and the embeddings kept in its folder.

    Raises:
        UsageError: a pool is to keep more actors than it may have.
    """
    cores = os.cpu_count() or 1
    devices = options.engine.devices
    gpu_actors = options.gpu_actors or machine_gpus // devices or 1
    cpu_actors = options.cpu_actors or max(1, cores - gpu_actors)
    for name, least, most in (("cpu", options.min_cpu_actors, cpu_actors), ("gpu", options.min_gpu_actors, gpu_actors)):
        if least is not None and least > most:
            raise UsageError(f"--min-{name}-actors: expected at most {most}, which is --{name}-actors, got {least}")
    cpu = PoolSpec(
        name="cpu",
        num_actors=cpu_actors,
        min_actors=options.min_cpu_actors,
        setup="vace_batch.workers:mask_setup",
        setup_args={"models": mask_models(options)},
    )
    gpu = PoolSpec(
        name="gpu",
        num_actors=gpu_actors,
        min_actors=options.min_gpu_actors,
        num_cpus=float(devices),
        num_gpus=float(devices) if machine_gpus else 0.0,
        overlaps=True,
        setup="vace_batch.workers:vace_setup",
        setup_args={
            "model": options.model,
            "revision": profiles.revision(options.model),
            "settings": options.engine,
            "prompts_uri": storage.join(batch.out, "prompts") if batch else None,
            "texts": _texts(batch.pending) if batch else {},
        },
        max_batch=options.max_batch,
    )
    return cpu, gpu


def _texts(works: Iterable[ClipWork]) -> dict[str, tuple[str, ...]]:
    """The prompts of `works` by model."""
    texts: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for work in works:
        texts[work.model] |= dict.fromkeys((work.job.prompt, work.job.negative_prompt or ""))
    return {model: tuple(found) for model, found in texts.items()}


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


def open_runtime(options: Options, batch: Batch | None = None) -> Runtime:
    """A Ray runtime, to be entered, that holds both pools; started here or attached to by RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS")
    return Runtime(pools_of(options, count_gpus(address), batch), address=address)


def run_clips(
    batch: Batch,
    works: Sequence[ClipWork],
    runtime: Runtime,
    *,
    show: Show = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """Run clips to their end, or until `should_stop`: what runs then is finished or given back, never half recorded.

    Returns: why the budget let no more begin; None where it did.

    Raises:
        ClusterError: no actor can be started.
    """
    gpu_actors, cpu_actors = (runtime.pools[name].num_actors for name in ("gpu", "cpu"))
    budget = open_budget(batch.out, batch.options, gpu_actors=gpu_actors, cpu_actors=cpu_actors)
    graph = ClipGraph(works, batch.unkept, another_attempt, budget)
    standing = {actor.actor_id: actor.pool for actor in runtime.actors() if actor.phase == "ready"}
    has_gpu = runtime.pools["gpu"].num_gpus > 0
    spending = Spending(batch.out, batch.options, budget, has_gpu=has_gpu, standing=standing)
    tally = _Tally(graph, show, spending, budget)
    limits = DispatchLimits(payload_bytes=batch.options.payload_mb << 20, drain_grace_s=DRAIN_GRACE_S)
    with log.bind(run=storage.digest(batch.out, str(time.time_ns()))[:8]):
        try:
            runtime.run(graph, graph.first_units(), limits=limits, on_event=tally.add, should_stop=should_stop)
        except OSError as error:
            raise ClusterError(f"{batch.out}: the ledger cannot be written: {error}") from error
        finally:
            tally.close()
        tally.show()
    return budget.reason


class _Tally:
    """Counts a run from its events."""

    def __init__(self, graph: ClipGraph, show: Show, spending: Spending, budget: Budget) -> None:
        self._graph, self._show, self._spending, self._budget = graph, show, spending, budget
        self._started = time.monotonic()
        self._windows_done = self._frames_done = 0
        self._busy_s = 0.0
        self._gpu_actors: set[int] = set()
        self._firsts: dict[str, None] = {}
        self._metrics = Metrics(graph.frames, graph.status)
        self._log = EventLog(graph.jobs_of)

    def close(self) -> None:
        self._metrics.close()
        self._spending.tell()

    def add(self, event: Event) -> None:
        self._metrics.add(event)
        self._spending.add(event)
        self._log.add(event)
        if isinstance(event, ActorReady):
            self._firsts["model" if event.pool == "gpu" else "masks"] = None
        if isinstance(event, ActorReady) and event.pool == "gpu":
            self._gpu_actors.add(event.actor_id)
        if isinstance(event, ActorDied):
            _LOG.warning("an actor of pool %s died (%s): %s", event.pool, event.cause, event.detail)
        if isinstance(event, ActorWaiting):
            _LOG.warning("pool %s waits for a machine that has room for one of its actors", event.pool)
        if isinstance(event, UnitDone) and event.unit.kind == "generate":
            self._windows_done += 1
            self._firsts["window"] = None
            assert isinstance(event.meta, float)
            self._busy_s += event.meta
            self._frames_done += self._graph.frames[event.unit.unit_id]
        self.show()

    def show(self) -> None:
        elapsed, status = time.monotonic() - self._started, self._graph.status
        self._show(
            Progress(
                clips=self._graph.num_clips,
                clips_done=status["done"],
                clips_failed=status["failed"],
                clips_skipped=status["skipped"],
                windows=self._graph.num_windows,
                windows_done=self._windows_done,
                frames_done=self._frames_done,
                gpu_busy=min(1.0, self._busy_s / max(1, len(self._gpu_actors)) / elapsed) if elapsed else 0.0,
                elapsed_s=elapsed,
                firsts=tuple(self._firsts),
                note=self._budget.note,
            )
        )
