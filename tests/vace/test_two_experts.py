"""Wan 2.2's layout, a transformer for high and one for low noise, against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline
from diffusers.video_processor import VideoProcessor
from safetensors.torch import load_file, save_file

from vace_batch.errors import ClipError, UsageError
from vace_batch.manifest.job import Sampling
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import load
from vace_batch.vace.profiles import model_files, profile
from vace_batch.vace.sample import expert_at
from vace_batch.vace.weights import file_revision
from vace_batch.vcu import tasks
from vace_batch.vcu.sampling import Lora, ResolvedSampling
from vace_batch.vcu.unit import VCU

ROUNDING = 5e-5
STEPS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a second transformer of other weights, and its boundary."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(str(model_files("tiny")), folder, dirs_exist_ok=True)
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    file = folder / "transformer_2" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    generator = torch.Generator().manual_seed(5)
    for name in sorted(weights):
        if "attn1.to_" in name:
            weights[name] = weights[name] + 0.2 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, file)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.875}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def window(**sampling: object) -> VCU:
    rng = np.random.default_rng(1)
    mask = np.zeros((5, 32, 48), np.bool_)
    mask[:, 8:24, 8:32] = True
    resolved = ResolvedSampling(num_inference_steps=STEPS, guidance_scale=4.0, flow_shift=5.0, **sampling)  # type: ignore[arg-type]
    given = tasks.WindowSettings(window_id="w", sampling=resolved, seed=3, prompt="a lake")
    return tasks.removal(rng.integers(0, 256, (5, 32, 48, 3), np.uint8), mask, given)


@pytest.mark.parametrize(("boundary", "second_scale"), [(0.875, None), (0.8, 2.5)])
def test_two_experts_equal_the_stock_pipeline(folder: Path, boundary: float, second_scale: float | None) -> None:
    torch.set_num_threads(1)
    model, vcu = load(str(folder), device="cpu"), window(boundary_ratio=boundary, guidance_scale_2=second_scale)
    stock = WanVACEPipeline.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
    # the pipeline counts two levels and does not see the VAE's patches of 2x2
    stock.vae_scale_factor_spatial = stock.vae.config.scale_factor_spatial
    stock.video_processor = VideoProcessor(vae_scale_factor=stock.vae_scale_factor_spatial)
    stock.set_progress_bar_config(disable=True)
    stock.register_to_config(boundary_ratio=boundary)
    stock.scheduler = UniPCMultistepScheduler.from_config(stock.scheduler.config, flow_shift=5.0)
    video = torch.from_numpy(vcu.frames_THWC).permute(0, 3, 1, 2).float() / 255
    video[torch.from_numpy(vcu.neutral_THW)[:, None].expand_as(video)] = 0.5
    theirs = stock(
        prompt=vcu.prompt,
        negative_prompt=vcu.negative_prompt,
        video=[video],
        mask=[torch.from_numpy(vcu.mask_THW)[:, None].expand_as(video).float()],
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        guidance_scale_2=second_scale,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).frames
    engine = VaceEngine(model)
    assert model.profile.boundary_ratio == 0.875
    calls = [0, 0]
    for number, expert in enumerate(model.experts):
        expert.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    ours = engine.denoise([vcu])
    assert (ours - theirs).abs().max() < ROUNDING
    assert min(calls) >= 2 and sum(calls) == 2 * STEPS
    high, low = (expert_at(model, vcu.sampling, level) for level in (boundary, boundary - 0.001))
    assert high == (model.transformer, 4.0) and low == (model.transformer_2, second_scale or 4.0)
    one = VaceEngine(load("tiny", device="cpu")).denoise([vcu])
    assert (one - theirs).abs().max() > 20 * ROUNDING, "the second expert must matter"


def test_the_step_cache_starts_anew_with_the_second_expert(folder: Path) -> None:
    engine = VaceEngine(load(str(folder), device="cpu"))
    runs: list[int] = []
    for expert in engine.model.experts:
        expert.vace_blocks[0].register_forward_hook(lambda *_, expert=expert: runs.append(id(expert)))
    engine.denoise([window(step_cache=0.99)])
    assert len(set(runs)) == 2, "each expert runs its own blocks at least once"


def test_each_expert_has_its_own_loras(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    name = "transformer.blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.ones(1, 128), f"{name}.lora_B.weight": torch.ones(128, 1)}, file)
    engine = VaceEngine(load(str(folder), device="cpu"))
    weights = [expert.get_parameter("blocks.0.attn1.to_q.weight") for expert in engine.model.experts]
    before = [weight.clone() for weight in weights]
    for expert, changed in (("high", [True, False]), ("low", [False, True]), ("both", [True, True])):
        lora = Lora(uri=str(file), weight=0.5, revision=file_revision(str(file)), expert=expert)
        engine.denoise([window(loras=(lora,))])
        for weight, base, is_changed in zip(weights, before, changed, strict=True):
            torch.testing.assert_close(weight, base + 0.5 * is_changed)
    engine.denoise([window()])
    assert all(torch.equal(weight, base) for weight, base in zip(weights, before, strict=True))
    with pytest.raises(ClipError, match="lora_unusable: .*expected both for a model of one transformer, got low"):
        VaceEngine(load("tiny", device="cpu")).denoise([window(loras=(replace(lora, expert="low"),))])


def test_what_two_experts_cannot_do_is_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((folder / "model_index.json").read_text())
    del index["boundary_ratio"]
    (tmp_path / "copy" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"expected a boundary_ratio of 0..1 in model_index.json beside its transf"):
        load(str(tmp_path / "copy"), device="cpu")


def test_a_job_says_what_the_second_expert_does_and_only_where_there_is_one(folder: Path) -> None:
    two, tiny = profile(str(folder)), profile("tiny")
    plain = two.sampling("removal", Sampling(guidance_scale=3.0))
    assert (plain.guidance_scale_2, plain.boundary_ratio) == (3.0, 0.875)
    own = two.sampling("removal", Sampling(guidance_scale=3.0, guidance_scale_2=1.0, boundary_ratio=0.9))
    assert (own.guidance_scale_2, own.boundary_ratio) == (1.0, 0.9)
    assert tiny.sampling("removal").guidance_scale_2 is None
    with pytest.raises(ClipError, match="unsupported: sampling.guidance_scale_2: .* tiny, which has one transf.*got 4"):
        tiny.sampling("removal", Sampling(guidance_scale_2=4.0))


def test_what_an_unguided_expert_saves_is_in_the_estimate(folder: Path) -> None:
    """The estimate counts the forwards that the sampler makes."""
    engine = VaceEngine(load(str(folder), device="cpu"))
    forwards: list[int] = []
    for expert in engine.model.experts:
        expert.register_forward_hook(lambda *_: forwards.append(1))
    for scales in ({"guidance_scale": 4.0, "guidance_scale_2": 1.0}, {"guidance_scale": 1.0, "guidance_scale_2": 4.0}):
        forwards.clear()
        made = replace(window(), sampling=engine.model.profile.sampling("removal", Sampling(flow_shift=5.0, **scales)))
        made = replace(made, sampling=replace(made.sampling, num_inference_steps=STEPS))
        engine.denoise([made])
        assert len(forwards) == STEPS + len(made.sampling.guided_steps)
        assert STEPS < len(forwards) < 2 * STEPS
