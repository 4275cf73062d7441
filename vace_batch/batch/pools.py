"""Size and start the CPU and GPU actor pools of a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable

from vace_batch.batch.batch import Batch
from vace_batch.batch.identity import mask_models
from vace_batch.cluster.machines import count_gpus
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.units import PoolSpec
from vace_batch.errors import UsageError
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.storage import files as storage
from vace_batch.vace.profiles import revision


def pools_of(options: Options, machine_gpus: int, batch: Batch | None = None) -> tuple[PoolSpec, PoolSpec]:
    """Describe the CPU and the GPU pool. Without a GPU the VACE actor runs on one CPU core.

    The prompts of `batch` are embedded before the model is loaded; the embeddings are kept in the batch's folder.

    Raises:
        UsageError: a pool's smallest number of actors exceeds its largest.
    """
    cores = os.cpu_count() or 1
    devices = options.engine.devices
    gpu_actors = options.gpu_actors or machine_gpus // devices or 1
    cpu_actors = options.cpu_actors or max(1, cores - gpu_actors)
    _check_size("cpu", options.min_cpu_actors, cpu_actors)
    _check_size("gpu", options.min_gpu_actors, gpu_actors)
    cpu = PoolSpec(
        name="cpu",
        num_actors=cpu_actors,
        min_actors=options.min_cpu_actors,
        setup="vace_batch.batch.workers:mask_setup",
        setup_args={"models": mask_models(options)},
    )
    gpu = PoolSpec(
        name="gpu",
        num_actors=gpu_actors,
        min_actors=options.min_gpu_actors,
        num_cpus=float(devices),
        num_gpus=float(devices) if machine_gpus else 0.0,
        overlaps=True,
        setup="vace_batch.batch.workers:vace_setup",
        setup_args={
            "model": options.model,
            "revision": revision(options.model),
            "settings": options.engine,
            "prompts_uri": storage.join(storage.absolute(batch.out), "prompts") if batch else None,
            "texts": _texts(batch.pending) if batch else {},
        },
        max_batch=options.max_batch,
    )
    return cpu, gpu


def _check_size(pool: str, least: int | None, most: int) -> None:
    if least is not None and least > most:
        raise UsageError(f"--min-{pool}-actors: expected at most {most}, which is --{pool}-actors, got {least}")


def _texts(works: Iterable[ClipWork]) -> dict[str, tuple[str, ...]]:
    """Group the prompts of `works` by model."""
    texts: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for work in works:
        texts[work.model] |= dict.fromkeys((work.job.prompt, work.job.negative_prompt or ""))
    return {model: tuple(prompts) for model, prompts in texts.items()}


def open_runtime(options: Options, batch: Batch | None = None) -> Runtime:
    """Make the Ray runtime of both pools, to be entered; it starts Ray here, or attaches to RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS")
    return Runtime(pools_of(options, count_gpus(address), batch), address=address)
