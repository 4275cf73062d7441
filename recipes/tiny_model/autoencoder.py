"""Train the embedded model's VAE: a linear autoencoder, transplanted into a VAE whose decoder is trained further.

Axes: B pictures or clips, C channels, T frames, H rows, W columns; pixels are float32 in -1..1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor, nn
from torch.nn import functional

from recipes.tiny_model.linear import LinearAutoencoder, transplant
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.flow_matching import ramp
from vace_batch.vace.training.pictures import Pictures

BASE, Z_DIM = 16, 16

Report = Callable[[int, float], None]

_SIDE, _CLIP_SIDE, _CLIP_FRAMES = 64, 56, 5
_PICTURES, _CLIPS = 10, 2
_NOISE = 0.04
"""Standard deviation of noise on the latents: a generated latent is never exactly an encoded one."""

_EDGES_COUNT, _CLIPS_COUNT = 0.15, 0.6
_GREYED = 0.25
"""How often a box of a picture is neutral grey, as control videos have them."""

_AVERAGED = 0.99


def train_linear(
    pictures: Pictures, *, steps: int, generator: np.random.Generator, report: Report | None = None
) -> LinearAutoencoder:
    """Train a linear autoencoder on `pictures`, from their principal components on."""
    linear = LinearAutoencoder(BASE, Z_DIM)
    linear.begin_with_components(_patches(pictures, 256, generator))
    optimiser = torch.optim.Adam(linear.parameters())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * ramp(step, steps, warmup=50)
        batch = _patches(pictures, 16, generator)
        loss = functional.mse_loss(linear.decode(linear.encode(batch)), batch)
        _descend(optimiser, linear, loss, limit=1.0)
        if report is not None:
            report(step, float(loss.detach()))
    return linear


def transplanted(
    linear: LinearAutoencoder, drawn: Clips, generator: np.random.Generator, *, clips: int = 40
) -> AutoencoderKLWan:
    """Make a VAE of the function of `linear`, with latents centred over `clips` clips.

    Half of the logarithmic differences between the channels' spreads are taken out.
    """
    widths: dict[str, Any] = {
        "base_dim": BASE,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "z_dim": Z_DIM,
        "temperal_downsample": [True, True],
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
    }
    vae = AutoencoderKLWan(**widths)
    transplant(linear, vae)
    with torch.no_grad():
        pixels = (torch.from_numpy(drawn.clip(96, 96, 9, generator)).permute(3, 0, 1, 2)[None] for _ in range(clips))
        latents = torch.cat([vae.encode(clip).latent_dist.mode()[0].flatten(1) for clip in pixels], dim=1)
    spread = latents.std(1)
    vae.register_to_config(
        latents_mean=[round(float(value), 4) for value in latents.mean(1)],
        latents_std=[round(float(value), 4) for value in (spread * spread.mean()).sqrt()],
    )
    # the decoder starts from a linear one whose levels carry a constant, see `lift`
    encoder = {name: weight.clone() for name, weight in vae.encoder.state_dict().items()}
    linear.lift()
    transplant(linear, vae)
    vae.encoder.load_state_dict(encoder)
    return vae


def train_decoder(
    vae: AutoencoderKLWan,
    pictures: Pictures,
    clips: Clips,
    *,
    steps: int,
    generator: np.random.Generator,
    report: Report | None = None,
) -> None:
    """Train the decoder of `vae` in place to the running average of its weights; the encoder stays."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    learning = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    optimiser = torch.optim.AdamW(learning.parameters(), weight_decay=0.0, betas=(0.9, 0.99))
    average = {name: weight.clone() for name, weight in learning.state_dict().items()}
    noise = torch.Generator().manual_seed(int(generator.integers(1 << 31)))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * ramp(step, steps, warmup=min(150, steps))
        still = np.stack([pictures.crop(_SIDE, _SIDE, generator)[None] for _ in range(_PICTURES)])
        moving = np.stack([clips.clip(_CLIP_SIDE, _CLIP_SIDE, _CLIP_FRAMES, generator) for _ in range(_CLIPS)])
        loss = _reconstruction(vae, still, generator, noise) + _CLIPS_COUNT * _reconstruction(
            vae, moving, generator, noise
        )
        _descend(optimiser, learning, loss, limit=0.5)
        for name, weight in learning.state_dict().items():
            average[name].lerp_(weight, 1 - min(_AVERAGED, (step + 1) / (step + 20)))
        if report is not None:
            report(step, float(loss.detach()))
    learning.load_state_dict(average)


def _reconstruction(
    vae: AutoencoderKLWan, pixels_BTHWC: np.ndarray[Any, Any], generator: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Compute the Charbonnier loss of pixels and of their differences to their neighbours."""
    pixels = torch.from_numpy(pixels_BTHWC).permute(0, 4, 1, 2, 3).contiguous()
    for picture in pixels:
        if generator.random() < _GREYED:
            _grey_box(picture, generator)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    decoded = _decode(vae, latents + _NOISE * torch.randn(latents.shape, generator=noise))
    error = decoded - pixels
    edges = sum((error.diff(dim=axis)).abs().mean() for axis in (-1, -2))
    return torch.sqrt(error.square() + 1e-4).mean() + _EDGES_COUNT * edges


def _decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode as `AutoencoderKLWan._decode` does, without its clamp, which would stop gradients."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for index in range(hidden.shape[2]):
        vae._conv_idx = [0]
        frame = hidden[:, :, index : index + 1]
        frames.append(vae.decoder(frame, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return unpatchify(torch.cat(frames, dim=2), vae.config.patch_size)


def _grey_box(picture: Tensor, generator: np.random.Generator) -> None:
    height, width = picture.shape[-2:]
    rows, columns = int(generator.integers(8, height)), int(generator.integers(8, width))
    top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
    picture[..., top : top + rows, left : left + columns] = 0.0


def _patches(pictures: Pictures, count: int, generator: np.random.Generator) -> Tensor:
    crops = np.stack([pictures.crop(_SIDE, _SIDE, generator) for _ in range(count)])
    return patchify(torch.from_numpy(crops).permute(0, 3, 1, 2).unsqueeze(2), 2).squeeze(2)


def _descend(optimiser: torch.optim.Optimizer, model: nn.Module, loss: Tensor, *, limit: float) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimiser.step()
