"""What saves time: either nothing changes, or how much does is said here. Real classes, the shipped weights."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch import nn

from vace_batch.batch.workers import Engines
from vace_batch.errors import ClipError, ClusterError, UsageError
from vace_batch.options import EngineSettings
from vace_batch.vace.acceleration import CompiledShapes
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.loading import open_engine
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.profiles import revision
from vace_batch.vace.prompts import PromptEncoder, PromptStore
from vace_batch.vace.sample import noise
from vace_batch.vace.step_cache import StepCache
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


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompts_of(model: VaceModel, uri: str, opened: list[str]) -> PromptEncoder:
    """An encoder that notes when the text encoder is loaded."""

    def open_text() -> tuple[object, object]:
        opened.append("loaded")
        return model.tokenizer, model.text_encoder

    return PromptEncoder(open_text, model.device, model.dtype, store=PromptStore(uri, model.revision))


def test_stored_prompts_need_no_text_encoder_and_are_the_same_bits(model: VaceModel, tmp_path: Path) -> None:
    opened: list[str] = []
    first = prompts_of(model, str(tmp_path), opened)
    first.prepare(["a lake", ""])
    assert opened == ["loaded"], "all texts in one load"
    later = prompts_of(model, str(tmp_path), opened)
    engine = VaceEngine(replace(model, text_encoder=None), prompts=later)
    vcu = window(1)
    assert torch.equal(engine.denoise([vcu]), VaceEngine(model).denoise([vcu]))
    assert opened == ["loaded"]
    assert later(["a lake"]).shape == (1, 512, 64)
    later(["a lake", "fog", "rain"])
    assert opened == ["loaded"] * 2, "only for what is not stored"


def test_an_opened_engine_holds_no_text_encoder_and_shares_its_prompts(tmp_path: Path, model: VaceModel) -> None:
    uri = str(tmp_path / "prompts")
    engine = open_engine("tiny", prompts_uri=uri, texts=["a lake", ""])
    assert engine.model.text_encoder is None
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert max(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 20_000, "padding is not stored"
    vcu = window(1)
    assert torch.equal(engine.denoise([vcu]), VaceEngine(model).denoise([vcu]))


def test_another_model_or_dtype_does_not_get_these_prompts(tmp_path: Path) -> None:
    store = PromptStore(str(tmp_path), "one float32")
    store.put("a", torch.ones(2, 64))
    assert torch.equal(store.get("a"), torch.ones(2, 64))  # type: ignore[arg-type]
    assert PromptStore(str(tmp_path), "one bfloat16").get("a") is None
    assert store.get("b") is None


# --- memory and poison -----------------------------------------------------------------------------------------------


@contextmanager
def memory_for(model: VaceModel, tokens: int, offloaded_tokens: int = 0) -> Iterator[None]:
    """A device whose memory holds forwards of so many tokens; with offloaded blocks of `offloaded_tokens`."""

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


# --- how the transformer computes ------------------------------------------------------------------------------------


def with_settings(**settings: object) -> VaceEngine:
    dtype = getattr(torch, str(settings["dtype"])) if "dtype" in settings else None
    return VaceEngine(load("tiny", device="cpu", dtype=dtype), EngineSettings.model_validate(settings))


@pytest.mark.parametrize("settings", [{"attention": "_native_math"}, {"offload": "group"}, {"vae_latents": 2}])
def test_what_claims_to_be_exact_is(settings: dict[str, object], engine: VaceEngine) -> None:
    vcu = window(9, steps=2)
    own = with_settings(**settings)
    assert (own.denoise([vcu]) - engine.denoise([vcu])).abs().max() < ROUNDING
    assert np.abs(own.generate([vcu])[0].astype(int) - engine.generate([vcu])[0]).max() <= 1


@pytest.mark.parametrize(
    "settings", [{"storage": "fp8"}, {"dtype": "bfloat16"}, {"storage": "fp8", "offload": "group"}]
)
def test_what_changes_pixels_does_so_by_a_little(settings: dict[str, object], engine: VaceEngine) -> None:
    vcu = window(9, steps=2)
    own = with_settings(**settings)
    assert 0.002 < relative(own.denoise([vcu]), engine.denoise([vcu])) < 0.05
    stored = {parameter.dtype for parameter in own.model.transformer.blocks[1].attn1.to_q.parameters()}
    assert stored == {torch.float8_e4m3fn if "storage" in settings else torch.bfloat16}


def test_a_longer_call_of_the_vae_is_fewer_calls(model: VaceModel) -> None:
    with counting(model.vae.encoder) as one:
        VaceEngine(model).denoise([window(17, steps=1)])
    with counting(model.vae.encoder) as four:
        VaceEngine(model, EngineSettings(vae_latents=4)).denoise([window(17, steps=1)])
    assert (len(one), len(four)) == (2 * 5, 2 * 2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"attention": "nonsense"}, "engine.attention=nonsense: .*must be one of the following: "),
        ({"attention": "flash"}, "engine.attention=flash: .*install `flash-attn"),
        ({"compile": True, "offload": "group"}, "engine.compile: expected false with engine.offload=group"),
    ],
)
def test_what_cannot_work_here_is_refused_by_name(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        with_settings(**settings)


def test_six_shapes_are_compiled_and_all_later_ones_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: asked.append(stance) or nullcontext())
    shapes = CompiledShapes(True)
    for name in [*"abcdefgh", "a", "h"]:
        with shapes.of(name):
            pass
    assert asked == ["default"] * 6 + ["force_eager"] * 2 + ["default", "force_eager"]
    with CompiledShapes(False).of("x"):
        assert len(asked) == 10


@pytest.mark.slow
def test_compiled_blocks_equal_the_others_and_later_shapes_are_not_compiled() -> None:
    own = with_settings(compile=True)
    plain = VaceEngine(load("tiny", device="cpu"))
    torch._dynamo.utils.counters.clear()
    graphs = []
    for num_frames in (1, 5, 9, 13, 17, 21, 25, 29):
        vcu = window(num_frames, steps=1)
        assert (own.denoise([vcu]) - plain.denoise([vcu])).abs().max() < ROUNDING
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[:6] == sorted(set(graphs[:6])), "each of the first shapes is compiled"
    assert graphs[5] == graphs[6] == graphs[7]


# --- several devices -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_that_share_the_tokens_give_what_one_gives(tmp_path: Path, engine: VaceEngine) -> None:
    shared = open_engine("tiny", settings=EngineSettings(devices=2), prompts_uri=str(tmp_path), texts=["a lake", ""])
    try:
        for vcu in (window(5, steps=2), window(9, steps=1), window(1, steps=1, prompt="")):
            assert (shared.denoise([vcu]) - engine.denoise([vcu])).abs().max() < ROUNDING
        with pytest.raises(ClipError, match="unsupported: sampling.step_cache: expected 0 with engine.devices"):
            shared.denoise([window(5, step_cache=0.1)])
        assert shared.usable
        shared.denoise([window(5, steps=1)])
    finally:
        shared.close()
    assert not shared.usable


@pytest.mark.slow
def test_a_helper_that_dies_is_told_and_the_engine_says_it_is_unusable(tmp_path: Path) -> None:
    shared = open_engine("tiny", settings=EngineSettings(devices=2), prompts_uri=str(tmp_path))
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    with pytest.raises(ClusterError, match="a process that shares this window's tokens is gone"):
        shared.denoise([window(5)])
    assert not shared.usable


SMALL_DEVICES = """
import os
if "DEVICE_TOKENS" in os.environ:
    import torch
    from diffusers.models.attention import FeedForward

    forward = FeedForward.forward

    def check(self, hidden_states, *rest, **named):
        if hidden_states.shape[0] * hidden_states.shape[1] > int(os.environ["DEVICE_TOKENS"]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")
        return forward(self, hidden_states, *rest, **named)

    FeedForward.forward = check
"""


@pytest.mark.slow
def test_out_of_memory_on_another_device_ends_as_a_smaller_batch_then_offload_then_a_failed_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process of two lacks the memory in the middle of a forward, while the first one waits for it."""
    (tmp_path / "sitecustomize.py").write_text(SMALL_DEVICES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    engines = Engines(EngineSettings(devices=2), str(tmp_path), {"tiny": ["", "a lake"]})
    windows = [window(5, seed, steps=1) for seed in range(2)]

    def generate(count: int, tokens: int) -> ClipError | int:
        """The verdict of a call while the other device holds so many tokens of a forward, which is its half of them."""
        monkeypatch.setenv("DEVICE_TOKENS", str(tokens))
        engine = engines.get("tiny", revision("tiny"))
        try:
            return len(engine.generate(windows[:count]))
        except ClipError as error:
            assert error.code == "out_of_memory" and not engine.usable
            return error

    half = windows[0].num_tokens // 2
    together, alone, offloaded = generate(2, half), generate(2, half - 1), generate(1, half - 1)
    assert isinstance(together, ClipError) and together.retryable
    assert isinstance(alone, ClipError) and alone.retryable
    assert isinstance(offloaded, ClipError) and not offloaded.retryable
    assert "--engine devices=4" in offloaded.reason and "sampling.max_tokens=" in offloaded.reason
    assert generate(2, half) == 2, "what comes next finds an engine that works: one by one, offloaded"
    engine = engines.get("tiny", revision("tiny"))
    assert engine.settings.offload == "group" and engine.settings.max_batch_tokens == windows[0].num_tokens
    engine.close()
