"""What saves time: either nothing changes, or how much does is said here. Real classes, seeded weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch import nn

from vace_batch import tasks
from vace_batch.profiles import ResolvedSampling
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.stepcache import StepCache
from vace_batch.vcu import VCU

ROUNDING = 5e-5


@pytest.fixture(scope="module")
def model() -> VaceModel:
    torch.set_num_threads(1)
    return load("tiny", device="cpu")


@pytest.fixture(scope="module")
def engine(model: VaceModel) -> VaceEngine:
    return VaceEngine(model)


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


def test_guidance_outside_of_its_interval_costs_nothing(engine: VaceEngine) -> None:
    vcu = window(1, steps=8)
    with counting(engine.model.transformer) as calls:
        inside = engine.denoise([sampled(vcu, guidance_from=0.25, guidance_until=0.75)])
    assert len(calls) == 8 + 4
    whole = engine.denoise([vcu])
    unguided = engine.denoise([sampled(vcu, guidance_scale=1.0)])
    assert 0.001 < relative(inside, whole) < relative(unguided, whole)
    assert torch.equal(engine.denoise([sampled(vcu, guidance_from=0.5, guidance_until=0.5)]), unguided)


def test_a_step_cache_that_never_hits_is_the_stock_forward(model: VaceModel) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "hidden_states": torch.randn(2, 16, 3, 4, 6, generator=generator),
        "timestep": torch.tensor([700.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 512, 64, generator=generator),
        "control_hidden_states": torch.randn(2, 96, 3, 4, 6, generator=generator),
        "control_hidden_states_scale": torch.tensor([1.0, 0.5]),
        "return_dict": False,
    }
    with torch.inference_mode():
        stock = WanVACETransformer3DModel.forward(model.transformer, **batch)[0]
        ours = model.transformer(**batch, step_cache=StepCache(0.0))[0]
        assert (ours - stock).abs().max() < ROUNDING
        cache = StepCache(0.01)
        first = model.transformer(**batch, step_cache=cache)[0]
        again = model.transformer(**batch, step_cache=cache)[0]
    assert (cache.runs, cache.hits) == (2, 2)
    assert torch.equal(first, again), "a repeated input must give the repeated output, hints counted once"


def test_the_step_cache_leaves_out_both_towers_and_errs_more_the_more_it_hits(engine: VaceEngine) -> None:
    vcu = window(5, steps=20)  # seeded weights move much from step to step: trained ones need far less than 0.6
    exact = engine.denoise([vcu])
    transformer = engine.model.transformer
    errors, calls = [], []
    for threshold in (0.6, 0.8, 0.9):
        with counting(transformer.blocks[1]) as main, counting(transformer.vace_blocks[1]) as context:
            errors.append(relative(engine.denoise([sampled(vcu, step_cache=threshold)]), exact))
        assert main == context
        calls.append(len(main))
    assert 40 > calls[0] > calls[1] > calls[2] >= 2
    assert 0.005 < errors[0] < errors[1] < errors[2] < 0.3


def test_the_step_cache_does_not_mix_the_windows_of_a_batch(engine: VaceEngine) -> None:
    windows = [sampled(window(5, seed, steps=10), step_cache=0.7) for seed in (1, 2)]
    windows.append(replace(windows[0], seed=9, prompt="", negative_prompt=""))
    together = engine.denoise(windows)
    for vcu, latents in zip(windows, together, strict=True):
        assert (engine.denoise([vcu])[0] - latents).abs().max() < 10 * ROUNDING
