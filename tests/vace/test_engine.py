"""The engine against diffusers' own WanVACEPipeline, and against itself in batches: real classes, shipped weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline
from diffusers.video_processor import VideoProcessor
from torch import nn

from vace_batch.errors import ClipError, UsageError
from vace_batch.manifest.presets import WAN_NEGATIVE_PROMPT
from vace_batch.options import EngineSettings
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel
from vace_batch.vace.profiles import model_files
from vace_batch.vace.sample import noise
from vace_batch.vcu import tasks
from vace_batch.vcu.controls.videos import simple_control
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU

ROUNDING = 5e-5
"""Largest difference of latents of unit size after a few steps; kernels and batch sizes round differently."""


@pytest.fixture(scope="module")
def stock() -> WanVACEPipeline:
    return open_stock(str(model_files("tiny")))


def open_stock(directory: str) -> WanVACEPipeline:
    """Open the stock pipeline in float32, the engine's type on a CPU."""
    pipeline = WanVACEPipeline.from_pretrained(directory, use_safetensors=True, torch_dtype=torch.float32)
    # the pipeline counts two levels and does not see the VAE's patches of 2x2
    pipeline.vae_scale_factor_spatial = pipeline.vae.config.scale_factor_spatial
    pipeline.video_processor = VideoProcessor(vae_scale_factor=pipeline.vae_scale_factor_spatial)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def settings(**change: object) -> tasks.WindowSettings:
    sampling = ResolvedSampling(num_inference_steps=3, guidance_scale=5.0, flow_shift=3.0)
    return tasks.WindowSettings(**({"window_id": "w", "sampling": sampling, "seed": 11} | change))  # type: ignore[arg-type]


def pictures(num_frames: int, seed: int = 0, height: int = 32, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Make smooth moving frames and a moving mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    phases = rng.uniform(0, 6, 3)
    waves = [np.sin(x[..., None] + 0.3 * t + phases) * np.cos(y[..., None] - 0.2 * t) for t in range(num_frames)]
    frames = np.asarray(127 + 100 * np.stack(waves), np.uint8)
    mask = np.zeros(frames.shape[:3], np.bool_)
    for t in range(num_frames):
        mask[t, 8:24, 4 + 2 * t : 20 + 2 * t] = True
    return frames, mask


def removal(num_frames: int = 9, seed: int = 11, **change: object) -> VCU:
    return tasks.removal(*pictures(num_frames, seed), settings(seed=seed, **change))


def restyle() -> VCU:
    frames, mask = pictures(9, 2)
    references = [pictures(1, seed)[0][0] for seed in (3, 4)]
    style = settings(prompt="ink on paper", negative_prompt=WAN_NEGATIVE_PROMPT, seed=5)
    return tasks.restyle(frames, mask, style, controls=[simple_control("gray", frames)], references=references)


def text_to_video() -> VCU:
    vcu = removal(5, prompt="a lake &amp; a boat", negative_prompt="fog")
    everything = np.ones_like(vcu.mask_THW)
    return replace(vcu, mask_THW=everything, neutral_THW=everything)


def ask_stock(pipeline: WanVACEPipeline, vcu: VCU) -> torch.Tensor:
    """Return the stock pipeline's latents for the same window; references go in backwards: it reverses them."""
    video = torch.from_numpy(vcu.frames_THWC).permute(0, 3, 1, 2).float() / 255
    video[torch.from_numpy(vcu.neutral_THW)[:, None].expand_as(video)] = 0.5
    mask = torch.from_numpy(vcu.mask_THW)[:, None].expand_as(video).float()
    sampling = vcu.sampling
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=sampling.flow_shift)
    latents: torch.Tensor = pipeline(
        prompt=vcu.prompt,
        negative_prompt=vcu.negative_prompt,
        video=None if vcu.mask_THW.all() and vcu.neutral_THW.all() else [video],
        mask=None if vcu.mask_THW.all() and vcu.neutral_THW.all() else [mask],
        reference_images=[PIL.Image.fromarray(picture) for picture in reversed(vcu.references)] or None,
        conditioning_scale=sampling.conditioning_scale,
        height=vcu.size.height,
        width=vcu.size.width,
        num_frames=vcu.num_frames,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generator=torch.Generator().manual_seed(vcu.seed),
        output_type="latent",
    ).frames
    return latents


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of the forwards of `module`."""
    calls: list[int] = []

    def note(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], __: object) -> None:
        calls.append(len(args[0] if args else kwargs["hidden_states"]))

    hook = module.register_forward_hook(note, with_kwargs=True)
    yield calls
    hook.remove()


CASES: dict[str, Callable[[], VCU]] = {
    "removal": removal,
    "removal with a prompt": lambda: removal(prompt="an empty street", negative_prompt="person"),
    "restyle with two references": restyle,
    "text to video": text_to_video,
    "one frame": lambda: removal(1),
    "scaled hints, other shift": lambda: replace(
        restyle(),
        sampling=ResolvedSampling(num_inference_steps=2, guidance_scale=3.0, flow_shift=8.0, conditioning_scale=0.4),
    ),
    "guidance off": lambda: replace(
        restyle(), sampling=ResolvedSampling(num_inference_steps=2, guidance_scale=1.0, flow_shift=3.0)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_stock_pipeline(case: str, engine: VaceEngine, stock: WanVACEPipeline) -> None:
    vcu = CASES[case]()
    ours, theirs = engine.denoise([vcu]), ask_stock(stock, vcu)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < ROUNDING


def test_the_comparison_can_tell_what_matters(engine: VaceEngine) -> None:
    vcu = restyle()
    latents = engine.denoise([vcu])
    others = (
        replace(vcu, references=vcu.references[::-1]),
        replace(vcu, prompt="oil"),
        replace(vcu, negative_prompt=None),
        replace(vcu, mask_THW=np.roll(vcu.mask_THW, 8, axis=2)),
        replace(vcu, frames_THWC=vcu.frames_THWC[:, ::-1]),
        replace(vcu, sampling=replace(vcu.sampling, mask_rule="max4")),
        replace(vcu, sampling=replace(vcu.sampling, conditioning_scale=0.9)),
        replace(vcu, seed=6),
    )
    for other in others:
        assert (engine.denoise([other]) - latents).abs().max() > 20 * ROUNDING


def test_decoding_equals_the_stock_vae(engine: VaceEngine, stock: WanVACEPipeline) -> None:
    vcu = restyle()
    latents = engine.denoise([vcu])[:, :, len(vcu.references) :]
    mean, std = (
        torch.tensor(value).view(1, -1, 1, 1, 1)
        for value in (stock.vae.config.latents_mean, stock.vae.config.latents_std)
    )
    with torch.no_grad():
        pixels = stock.vae.decode(latents * std + mean).sample
    theirs = (stock.video_processor.postprocess_video(pixels, "np")[0] * 255).round()
    ours = engine.generate([vcu])[0]
    assert ours.dtype == np.uint8 and ours.shape == vcu.frames_THWC.shape
    assert np.abs(ours - theirs).max() <= 1


def test_a_batch_equals_its_windows_one_by_one(engine: VaceEngine) -> None:
    base = removal()
    batch = [
        base,
        replace(base, seed=12, prompt="a field"),
        replace(removal(seed=13), prompt="a field", negative_prompt="a field"),
    ]
    together = engine.denoise(batch)
    for vcu, latents in zip(batch, together, strict=True):
        assert (engine.denoise([vcu])[0] - latents).abs().max() < ROUNDING


def test_mixed_shapes_come_back_in_order(model: VaceModel, engine: VaceEngine) -> None:
    windows = [removal(9), removal(5), restyle(), removal(9, seed=12), removal(1)]
    small = VaceEngine(model, EngineSettings(max_batch_tokens=1, vae_pixels=1))
    for vcu, together, alone in zip(windows, engine.generate(windows), small.generate(windows), strict=True):
        assert together.shape == vcu.frames_THWC.shape
        assert np.abs(together.astype(int) - alone).max() <= 1


def test_batches_stay_within_the_token_budget(model: VaceModel) -> None:
    windows = [removal(5, seed=seed) for seed in range(5)]
    engine = VaceEngine(model, EngineSettings(max_batch_tokens=2 * windows[0].num_tokens))
    with counting(model.transformer) as calls:
        engine.generate(windows)
    assert calls == [2] * 6 + [1] * 3


def test_windows_of_different_shape_are_no_batch(engine: VaceEngine) -> None:
    with pytest.raises(
        ValueError, match=r"expected VCUs of one shape and sampling, got \['48x32x5\+0 num_.*48x32x9\+0"
    ):
        engine.denoise([removal(5), removal(9)])


@pytest.mark.parametrize(
    ("change", "scale", "forwards"),
    [
        ({}, 5.0, [1] * 3),
        ({"prompt": "sea", "negative_prompt": "sea"}, 5.0, [1] * 3),
        ({"prompt": "sea", "negative_prompt": "rain"}, 1.0, [1] * 3),
        ({"prompt": "sea", "negative_prompt": "rain"}, 5.0, [1] * 6),
    ],
)
def test_one_forward_a_step_where_guidance_says_nothing(
    engine: VaceEngine, change: dict[str, str], scale: float, forwards: list[int]
) -> None:
    vcu = removal(1, **change)
    with counting(engine.model.transformer) as calls:
        engine.denoise([replace(vcu, sampling=replace(vcu.sampling, guidance_scale=scale))])
    assert calls == forwards


def test_only_the_windows_that_need_it_get_a_second_forward(engine: VaceEngine) -> None:
    vcu = removal(1)
    with counting(engine.model.transformer) as calls:
        engine.denoise([vcu, replace(vcu, prompt="sea"), vcu])
    assert calls == [3, 1] * 3


def test_neutral_streams_are_looked_up_not_encoded(model: VaceModel, stock: WanVACEPipeline) -> None:
    engine, latents = VaceEngine(model), 3
    with counting(model.vae.encoder) as calls:
        engine.denoise([removal(9)])
        assert calls == [1] * 2 * latents
        engine.denoise([removal(9, seed=1), removal(9, seed=2)])
        assert calls[2 * latents :] == [2] * latents
        shorter = removal(5)
        ours = engine.denoise([shorter])
        assert calls[3 * latents :] == [1] * 2
    assert (ours - ask_stock(stock, shorter)).abs().max() < ROUNDING


def test_an_all_neutral_window_is_not_encoded_twice(model: VaceModel) -> None:
    engine = VaceEngine(model)
    with counting(model.vae.encoder) as calls:
        engine.denoise([text_to_video()])
        engine.denoise([text_to_video()])
    assert len(calls) == 2


def test_prompts_are_encoded_once(model: VaceModel) -> None:
    engine = VaceEngine(model)
    assert model.text_encoder is not None
    with counting(model.text_encoder.encoder.block[0]) as calls:
        engine.denoise([removal(1, prompt="sea"), removal(1, prompt="sky")])
        engine.denoise([removal(1, prompt="sky", negative_prompt="sea")])
    assert len(calls) == 3


def test_noise_comes_from_the_seed_alone() -> None:
    vcu = restyle()
    torch.manual_seed(1)
    first = noise(vcu, 16)
    torch.manual_seed(2)
    assert torch.equal(first, noise(replace(vcu, window_id="other", prompt="x"), 16))
    assert not torch.equal(first, noise(replace(vcu, seed=6), 16))
    assert first.shape == (16, 3 + 2, 4, 6)


def test_output_that_is_not_finite_names_the_window(model: VaceModel) -> None:
    broken = replace(removal(1), sampling=replace(removal(1).sampling, conditioning_scale=float("inf")))
    with pytest.raises(ClipError, match="not_finite.*for w;"):
        VaceEngine(model).generate([broken])


def test_without_a_text_encoder_only_known_prompts_work(model: VaceModel) -> None:
    engine = VaceEngine(replace(model, text_encoder=None))
    with pytest.raises(UsageError, match="loaded without its text encoder"):
        engine.denoise([removal(1)])


def test_the_fill_is_nearer_to_the_truth_than_mid_gray(engine: VaceEngine) -> None:
    frames, mask = pictures(9, height=64, width=64)
    made = engine.generate([tasks.removal(frames, mask, settings())])[0]
    error, gray = (np.abs(guess.astype(float) - frames)[mask].mean() for guess in (made, np.full_like(frames, 128)))
    assert error < 0.9 * gray  # 0.83 when the weights came


def test_leaves_no_trace_of_its_cases(tmp_path: Path, engine: VaceEngine) -> None:
    """Generate a window twice with others between: the VAE's state and the caches carry nothing over."""
    first = engine.generate([removal(9)])[0]
    engine.generate([restyle(), removal(5)])
    np.testing.assert_array_equal(engine.generate([removal(9)])[0], first)
