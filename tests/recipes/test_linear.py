"""Test that the VAE starts as the linear autoencoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

from recipes.tiny_model.linear import LinearAutoencoder, transplant


def test_the_vae_starts_as_the_linear_autoencoder() -> None:
    torch.manual_seed(0)
    linear = LinearAutoencoder(8, 4)
    vae = AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        z_dim=4,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    transplant(linear, vae)
    pictures = torch.rand(2, 3, 1, 32, 32) - 0.5
    blocks = pictures[:, :, 0].unflatten(2, (16, 2)).unflatten(4, (16, 2))
    grouped = blocks.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        torch.testing.assert_close(latents[:, :, 0], linear.encode(grouped), atol=0.01, rtol=0.02)
        still = vae.decode(torch.cat([latents] * 3, dim=2)).sample
    assert still.shape == (2, 3, 9, 32, 32)
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still), atol=1e-4, rtol=0)
