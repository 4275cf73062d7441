"""The step cache: exact where it never hits, and its error where it does."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import WanVACETransformer3DModel

from tests.support.engine_windows import ROUNDING, counting, relative, sampled, window
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel
from vace_batch.vace.step_cache import StepCache


def test_a_step_cache_that_never_hits_is_the_stock_forward(model: VaceModel) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "hidden_states": torch.randn(2, 16, 3, 4, 6, generator=generator),
        "timestep": torch.tensor([700.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 512, 64, generator=generator),
        "control_hidden_states": torch.randn(2, 96, 3, 4, 6, generator=generator),
        "control_hidden_states_scale": torch.tensor([1.0, 0.5, 0.5]),
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
    vcu = window(5, steps=20)  # this model moves much from step to step, large ones need far less than 0.3
    exact = engine.denoise([vcu])
    transformer = engine.model.transformer
    errors, calls = [], []
    for threshold in (0.3, 0.6, 0.9):
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
