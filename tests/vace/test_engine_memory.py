"""An engine that runs out of memory, and windows whose output is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from tests.support.engine_windows import counting, window
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.sample import noise


@contextmanager
def memory_for(model: VaceModel, tokens: int, offloaded_tokens: int = 0) -> Iterator[None]:
    """Simulate a device whose memory holds forwards of `tokens` tokens, or `offloaded_tokens` with offloaded blocks."""

    def check(_: nn.Module, __: object, kwargs: dict[str, torch.Tensor]) -> None:
        batch, _, *sides = kwargs["hidden_states"].shape
        limit = offloaded_tokens if is_offloaded(model) else tokens
        if batch * int(np.prod(sides)) // 4 > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")

    hook = model.transformer.register_forward_pre_hook(check, with_kwargs=True)
    yield
    hook.remove()


def is_offloaded(model: VaceModel) -> bool:
    registries = [
        module._diffusers_hook for module in model.transformer.modules() if hasattr(module, "_diffusers_hook")
    ]
    return any(registry.get_hook("group_offloading") is not None for registry in registries)


def test_out_of_memory_halves_the_batch_for_good(model: VaceModel) -> None:
    windows = [window(1, seed, steps=1) for seed in range(6)]
    exact = VaceEngine(model).generate(windows)
    engine = VaceEngine(model)
    with memory_for(model, 3 * windows[0].num_tokens), counting(model.transformer) as calls:
        frames = engine.generate(windows)
        first = list(calls)
        engine.generate(windows)
    assert max(first) == 3 and calls[len(first) :] == first
    for ours, theirs in zip(frames, exact, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert not is_offloaded(model)


def test_out_of_memory_alone_offloads_and_then_is_the_windows_error_with_advice() -> None:
    own = load("tiny", device="cpu")
    engine = VaceEngine(own)
    small, large = window(1, steps=1), window(9, steps=1)
    expected = engine.generate([small])[0]
    with memory_for(own, 0, small.num_tokens):
        made = {made.index: made for made in engine.stream([large, small])}
    assert is_offloaded(own)
    assert made[1].frames is not None and np.abs(made[1].frames.astype(int) - expected).max() <= 1
    error = made[0].error
    assert error is not None and error.code == "out_of_memory" and not error.retryable
    assert "48x32x9 (18 tokens)" in error.reason
    for way in ("sampling.max_tokens=9 ", "sampling.max_frames=5 ", "--engine storage=fp8", "--engine devices=2"):
        assert way in error.reason
    assert "references" not in error.reason and "compile" not in error.reason


def test_one_poisoned_window_does_not_fail_its_neighbours(model: VaceModel) -> None:
    windows = [window(1, seed, steps=1, prompt="") for seed in range(3)]
    engine = VaceEngine(model)
    whole = engine.generate(windows)

    def poison(_: nn.Module, __: object, kwargs: dict[str, torch.Tensor], output: tuple[torch.Tensor]) -> None:
        for position, latents in enumerate(kwargs["hidden_states"]):
            if torch.equal(latents, noise(windows[1], 16)):
                output[0][position] = float("nan")

    hook = model.transformer.register_forward_hook(poison, with_kwargs=True)
    with counting(model.transformer) as calls:
        made = {made.index: made for made in engine.stream(windows)}
    hook.remove()
    assert calls == [3, 1], "the poisoned one is tried once more, alone"
    assert made[1].error is not None and made[1].error.code == "not_finite" and "w1" in made[1].error.reason
    for index in (0, 2):
        np.testing.assert_array_equal(made[index].frames, whole[index])
