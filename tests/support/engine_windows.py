"""A window for the tests of the engine, and helpers that count forwards and errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vace_batch.vcu import tasks
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU

ROUNDING = 5e-5


def window(num_frames: int = 5, seed: int = 11, steps: int = 4, prompt: str = "a lake", **sampling: object) -> VCU:
    """A moving hole in a moving texture, guided: prompt and negative prompt differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :48] / 16
    phases = rng.uniform(0, 6, 3)
    waves = [np.sin(x[..., None] + 0.3 * t + phases) * np.cos(y[..., None] - 0.2 * t) for t in range(num_frames)]
    mask = np.zeros((num_frames, 32, 48), np.bool_)
    for t in range(num_frames):
        mask[t, 8:24, 4 + 2 * t : 20 + 2 * t] = True
    resolved = ResolvedSampling(num_inference_steps=steps, guidance_scale=5.0, flow_shift=3.0, **sampling)  # type: ignore[arg-type]
    given = tasks.WindowSettings(window_id=f"w{seed}", sampling=resolved, seed=seed, prompt=prompt)
    return tasks.removal(np.asarray(127 + 100 * np.stack(waves), np.uint8), mask, given)


def sampled(vcu: VCU, **change: object) -> VCU:
    return replace(vcu, sampling=replace(vcu.sampling, **change))  # type: ignore[arg-type]


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of the forwards of `module`."""
    calls: list[int] = []

    def note(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], __: object) -> None:
        calls.append(len(args[0] if args else kwargs["hidden_states"]))

    hook = module.register_forward_hook(note, with_kwargs=True)
    yield calls
    hook.remove()


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())
