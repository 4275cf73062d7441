"""Removal windows of noise, for the benchmarks of the engine and of the device's busy share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vace_batch.vcu import tasks
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU


def windows(
    count: int, shape: tuple[int, int, int], steps: int, *, guided: bool, noise_level: float = 1.0
) -> list[VCU]:
    """Removal windows of (frames, height, width): noise with a box to fill, on gray where it is below 1."""
    rng, made = np.random.default_rng(0), []
    sampling = ResolvedSampling(num_inference_steps=steps, guidance_scale=5.0, flow_shift=3.0)
    mask = np.zeros(shape, np.bool_)
    mask[:, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = True
    for number in range(count):
        given = tasks.WindowSettings(window_id=f"window-{number}", sampling=sampling, seed=number)
        top = max(1, round(256 * noise_level))
        frames = rng.integers(0, top, (*shape, 3), np.uint8) + np.uint8((256 - top) // 2)
        vcu = tasks.removal(frames, mask, given)
        made.append(replace(vcu, prompt="an empty street" if guided else "", negative_prompt=""))
    return made
