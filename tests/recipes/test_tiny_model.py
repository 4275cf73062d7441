"""The recipe of the embedded weights, at a few steps: every stage, and a package that loads and generates."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from recipes.tiny_model.autoencoder import train_decoder, train_linear, transplanted
from recipes.tiny_model.build import SCHEDULES, package, train_transformer
from recipes.tiny_model.linear import LinearAutoencoder, transplant
from recipes.tiny_model.samples import LINEAR_FILE, Batches, LinearEncoder, Sources, channel_gains
from vace_batch.geometry import Size
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import load
from vace_batch.vace.profiles import TINY, model_files
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.loop import trained_weights
from vace_batch.vace.training.pictures import Pictures, draw
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.tasks import WindowSettings, removal


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    photos, parts = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("parts")
    for number, name in enumerate(("rocket", "other")):
        picture = draw(150, 200, np.random.default_rng(number))
        cv2.imwrite(str(photos / f"{name}.png"), ((picture + 1) * 127.5).astype(np.uint8))
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(Path(str(model_files(TINY))) / part, parts / part)
    torch.manual_seed(0)
    torch.save(LinearAutoencoder(16, 16).state_dict(), parts / LINEAR_FILE)
    return Sources(photos=photos, parts=parts, tokens=36, shapes=((Size(48, 48), 5, 0.7), (Size(64, 32), 1, 0.3)))


def test_the_linear_autoencoder_encodes_as_the_vae_does() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(str(model_files(TINY)), subfolder="vae", torch_dtype=torch.float32)
    linear = LinearAutoencoder(16, 16).requires_grad_(False)
    transplant(linear, vae)
    clip = torch.rand(1, 3, 9, 32, 32) - 0.5
    exact = super(LinearEncoder, encoder := LinearEncoder(linear, vae)).encode(clip)
    fast = encoder.encode(clip)
    assert fast.shape == exact.shape == (1, 16, 3, 4, 4)
    error = (fast - exact).square().mean().sqrt() / exact.std()
    assert float(error.detach()) < 0.03


def test_a_channel_that_pixels_hang_on_counts_more() -> None:
    torch.manual_seed(0)
    linear = LinearAutoencoder(16, 16)
    with torch.no_grad():
        linear.from_latent.weight[:, 3] *= 10
    gains = channel_gains(linear, [1.0] * 16)
    assert gains.argmax() == 3
    assert float(gains.mean()) == pytest.approx(1)


def test_a_batch_is_what_its_seed_says(sources: Sources) -> None:
    batches = Batches(sources)
    first, again, other = (batches(np.random.default_rng([0, seed])) for seed in (4, 4, 5))
    assert torch.equal(first.latents_BCthw, again.latents_BCthw)
    assert torch.equal(first.control_BCthw, again.control_BCthw)
    assert first.latents_BCthw.shape != other.latents_BCthw.shape or not torch.equal(
        first.latents_BCthw, other.latents_BCthw
    )
    assert first.weights_BCthw is not None and first.weights_BCthw.shape == first.latents_BCthw.shape


def test_the_autoencoder_learns(sources: Sources) -> None:
    generator = np.random.default_rng(0)
    losses: list[float] = []
    pictures = Pictures(sources.photos)
    linear = train_linear(pictures, steps=12, generator=generator, report=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    vae = transplanted(linear, Clips(pictures), generator, clips=2)
    encoder = {name: weight.clone() for name, weight in vae.encoder.state_dict().items()}
    decoder = vae.decoder.conv_in.weight.clone()
    train_decoder(vae, pictures, Clips(pictures), steps=1, generator=generator)
    assert all(torch.equal(weight, encoder[name]) for name, weight in vae.encoder.state_dict().items())
    assert not torch.equal(vae.decoder.conv_in.weight, decoder)


def test_base_then_context_then_a_model_directory(sources: Sources) -> None:
    for stage in ("base", "context"):
        train_transformer(stage, sources, replace(SCHEDULES[stage], steps=2), every=1, validated=1)
        lines = [json.loads(line) for line in (sources.parts / f"{stage}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1]
        assert lines[0].keys() == {"step", "trained", "loss", "start", "seconds"}
    base = torch.load(sources.parts / "base.pt", weights_only=True)
    context = torch.load(sources.parts / "context.pt", weights_only=True)
    assert all(torch.equal(context[name], weight) for name, weight in base.items())
    assert trained_weights(sources.parts / "context").keys() == context.keys() - base.keys()
    sampling = ResolvedSampling(num_inference_steps=1, guidance_scale=1.0, flow_shift=3.0)
    frames = np.full((5, 32, 32, 3), 90, np.uint8)
    vcu = removal(frames, frames[..., 0] > 0, WindowSettings(window_id="w", sampling=sampling))
    made = VaceEngine(load(str(package(sources.parts)), device="cpu")).generate([vcu])[0]
    assert made.shape == frames.shape
