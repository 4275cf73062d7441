"""Fine-tuning by several processes of a Ray cluster, one a device, with Ray Train."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vace_batch.cluster.connection import join, start  # isort: skip  (first: it sets Ray's environment)

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from vace_batch.cluster.guard import Guard
from vace_batch.cluster.watch import Watch
from vace_batch.errors import ClusterError
from vace_batch.vace.training.finetune import Tuning, tune
from vace_batch.vace.training.loop import Schedule

_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The processes of a training: their number, whether each has a GPU (else a CPU), and the address of their Ray
    cluster; without an address a Ray is started on this machine."""

    workers: int
    gpu: bool
    address: str | None = None


def tune_together(
    manifest: str,
    ref: str,
    directory: Path,
    tuning: Tuning,
    schedule: Schedule,
    team: Team,
) -> None:
    """Fine-tune like `tune`, in several processes whose batches make one step.

    Every node must see the videos and `directory`. If a process dies, all start again from the last checkpoint, up to
    three times.

    Raises:
        ClusterError: Ray does not start, or training failed more often; the message has the error that `tune` raised.
    """
    folder = directory.absolute()
    run = RunConfig(name="tune", storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=_TRIES))
    with closing(Guard()) as guard:
        if team.address:
            join(team.address)
        else:
            with guard.marking():
                start()
        with closing(Watch(private=not team.address)):  # a loss ends this process: Ray Train would wait for ever
            _train(
                TorchTrainer(
                    _work,
                    train_loop_config={"arguments": (manifest, ref, folder, tuning, schedule)},
                    scaling_config=ScalingConfig(num_workers=team.workers, use_gpu=team.gpu),
                    torch_config=TorchConfig(backend="nccl" if team.gpu else "gloo"),
                    run_config=run,
                )
            )


def _train(trainer: TorchTrainer) -> None:
    try:
        trainer.fit()
    except (
        Exception
    ) as error:  # a worker's error comes as one of Ray Train's own classes, which differ from release to release
        raise ClusterError(f"training: {error}") from error
    finally:
        ray.shutdown()


def _work(config: dict[str, Any]) -> None:
    manifest, ref, directory, tuning, schedule = config["arguments"]
    tune(manifest, ref, directory, tuning, schedule, device=str(get_device()))
