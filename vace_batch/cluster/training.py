"""Fine-tuning by several processes of a Ray cluster, one a device, with Ray Train."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from vace_batch.cluster.ray_private import on_loopback  # isort: skip  (first: it sets Ray's environment)

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from vace_batch.errors import ClusterError
from vace_batch.vace.training.finetune import Tuning, tune
from vace_batch.vace.training.loop import Schedule

_TRIES = 3


def tune_together(
    manifest: str,
    ref: str,
    directory: Path,
    tuning: Tuning,
    schedule: Schedule,
    *,
    workers: int,
    gpu: bool,
    address: str | None = None,
) -> None:
    """Fine-tune like `tune`, in `workers` processes whose batches make one step; with `gpu` each process has a GPU,
    else a CPU.

    `address` is a Ray cluster's; None starts a Ray on this machine. Every node must see the videos and `directory`. If
    a process dies, all start again from the last checkpoint, up to three times.

    Raises:
        ClusterError: Ray does not start, or training failed more often; the message has the error that `tune` raised.
    """
    folder = directory.absolute()
    run = RunConfig(name="tune", storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=_TRIES))
    try:
        with contextlib.nullcontext() if address else on_loopback():
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR")
        TorchTrainer(
            _work,
            train_loop_config={"words": (manifest, ref, folder, tuning, schedule)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=run,
        ).fit()
    except Exception as error:  # what a worker raised comes as Ray Train's own, which differ from release to release
        raise ClusterError(f"training: {error}") from error
    finally:
        ray.shutdown()


def _work(config: dict[str, Any]) -> None:
    manifest, ref, directory, tuning, schedule = config["words"]
    tune(manifest, ref, directory, tuning, schedule, device=str(get_device()))
