"""Train by steps with checkpoints; samples depend on the seed and the step alone, so that resuming is exact.

In a `torch.distributed` group each process draws a batch of its own, and all processes step alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from vace_batch.errors import UsageError
from vace_batch.vace.training.flow_matching import TrainingBatch, flow_loss, ramp

CHECKPOINT = "checkpoint.safetensors"

BatchOf = Callable[[np.random.Generator], TrainingBatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Number of steps, learning rate and checkpoints of a training; `pure_noise` as in `flow_loss`.

    `bf16` is autocast: weights and their optimiser stay in float32.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup: int = 50
    weight_decay: float = 0.01
    flow_shift: float = 3.0
    pure_noise: float = 0.0
    checkpoint_every: int = 100
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise ValueError(f"steps, checkpoint_every: expected at least 1, got {self.steps}, {self.checkpoint_every}")


def fit(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    batch_of: BatchOf,
    schedule: Schedule,
    directory: Path,
    *,
    hints: float | None = 1.0,
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the parameters `trained` of `model`, by name; return the loss of each step of this call.

    Training resumes from a checkpoint in `directory` and writes one every `checkpoint_every` steps and at the end. Of a
    group the first process does both, and only it needs `directory`; a step of n processes has n times the batch.

    Raises:
        UsageError: the checkpoint is of other parameters or another schedule.
    """
    rank, count = _rank_and_count()
    optimiser = torch.optim.AdamW(trained.values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    first = _resume(directory / CHECKPOINT, trained, optimiser, schedule) if rank == 0 else 0
    if count > 1:
        first = same_start(first, trained, optimiser)
    losses = []
    for step in range(first, schedule.steps):
        _set_rate(optimiser, schedule, step)
        draw = step * count + rank
        batch = batch_of(np.random.default_rng([schedule.seed, draw]))
        noise = torch.Generator().manual_seed(schedule.seed * 1_000_003 + draw)
        with torch.autocast(batch.latents_BCthw.device.type, torch.bfloat16, enabled=schedule.bf16):
            loss = flow_loss(
                model,
                batch,
                flow_shift=schedule.flow_shift,
                generator=noise,
                hints=hints,
                pure_noise=schedule.pure_noise,
            )
        optimiser.zero_grad()
        loss.backward()
        if count > 1:
            loss = mean_of_all(loss, trained, count)
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if rank:
            continue
        if report is not None:
            report(step, losses[-1])
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
            directory.mkdir(parents=True, exist_ok=True)
            _save(directory / CHECKPOINT, step + 1, trained, optimiser, schedule)
    return losses


def _rank_and_count() -> tuple[int, int]:
    """Return this process's rank in its group and the group's size; 0 and 1 without a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _set_rate(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set the learning rate of a step."""
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * ramp(step, schedule.steps, warmup=schedule.warmup)


def same_start(first: int, trained: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> int:
    """Copy the first process's weights, optimiser state and step to all processes; return the step."""
    device = next(iter(trained.values())).device
    step = torch.tensor(first, device=device)
    dist.broadcast(step, 0)
    for parameter in trained.values():
        dist.broadcast(parameter.detach(), 0)
        if not int(step):
            continue
        state = optimiser.state[parameter]
        state.setdefault("step", torch.tensor(float(step)))
        for name in ("exp_avg", "exp_avg_sq"):
            dist.broadcast(state.setdefault(name, torch.zeros_like(parameter)), 0)
    return int(step)


def mean_of_all(loss: Tensor, trained: Mapping[str, nn.Parameter], count: int) -> Tensor:
    """Replace every process's gradients by the mean of all processes; return the mean loss."""
    for parameter in trained.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    slopes = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
    flat = torch.cat([loss.detach().reshape(1).to(slopes[0]), parameters_to_vector(slopes)])
    dist.all_reduce(flat)
    flat /= count
    vector_to_parameters(flat[1:], slopes)
    return flat[0]


def trained_weights(directory: Path) -> dict[str, Tensor]:
    """Read the trained parameters from the checkpoint in `directory`.

    Raises:
        UsageError: the directory holds no checkpoint.
    """
    path = directory / CHECKPOINT
    if not path.is_file():
        raise UsageError(f"training: {directory} holds no {CHECKPOINT}")
    with safe_open(path, "pt") as file:
        return {key[len("weight/") :]: file.get_tensor(key) for key in file.keys() if key.startswith("weight/")}


def _identity(schedule: Schedule) -> str:
    fields = ("steps", "learning_rate", "warmup", "weight_decay", "flow_shift", "pure_noise", "seed")
    return json.dumps({name: getattr(schedule, name) for name in fields})


def _save(
    path: Path, step: int, trained: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, schedule: Schedule
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        state = optimiser.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors[f"mean/{name}"], tensors[f"square/{name}"] = state["exp_avg"], state["exp_avg_sq"]
    new = path.with_name(f"{path.name}.new")
    save_file(tensors, new, metadata={"format": "pt", "step": str(step), "schedule": _identity(schedule)})
    os.replace(new, path)


def _resume(
    path: Path, trained: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, schedule: Schedule
) -> int:
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        if facts["schedule"] != _identity(schedule):
            raise UsageError(f"training: {path} was written with {facts['schedule']}; give the same or another folder")
        if {f"weight/{name}" for name in trained} != {key for key in file.keys() if key.startswith("weight/")}:
            raise UsageError(f"training: {path} holds other parameters than are trained; give another folder")
        step = int(facts["step"])
        for name, parameter in trained.items():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"weight/{name}"))
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"mean/{name}").to(parameter.device),
                "exp_avg_sq": file.get_tensor(f"square/{name}").to(parameter.device),
            }
    return step
