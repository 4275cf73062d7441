"""A linear autoencoder with the shape of the VAE, and its transplantation: a start that saves most of the training.

The residual blocks of the VAE begin as identities. Its two heads, a norm and a SiLU before the last convolution, are
made linear: each signal u is carried as a pair (u, -u), since silu(u) - silu(-u) = u, beside two large constants that
keep the norm from changing with the signal.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional

_CONSTANT = 30.0


class LinearAutoencoder(nn.Module):  # type: ignore[misc]
    """Pictures (B, 12, H/2, W/2), pixels in groups of 2x2, to latents (B, z, H/8, W/8) and back."""

    def __init__(self, base: int, z_dim: int) -> None:
        super().__init__()
        self.inner, self.outer = 2 * base - 1, base // 2 - 1
        self.read = nn.Conv2d(12, base, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(base, base, 3, stride=2), nn.Conv2d(2 * base, 2 * base, 3, stride=2)])
        self.widen = nn.ModuleList([nn.Conv2d(base, 2 * base, 1), nn.Conv2d(2 * base, self.inner, 1)])
        self.to_latent = nn.Conv2d(self.inner, z_dim, 3, padding=1)
        self.from_latent = nn.Conv2d(z_dim, 4 * base, 3, padding=1)
        self.up = nn.ModuleList(
            [nn.Conv2d(4 * base, 2 * base, 3, padding=1), nn.Conv2d(2 * base, self.outer, 3, padding=1)]
        )
        self.write = nn.Conv2d(self.outer, 12, 3, padding=1)

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures `x` into latents."""
        x = self.read(x)
        for down, widen in zip(self.down, self.widen, strict=True):
            x = widen(down(functional.pad(x, (0, 1, 0, 1))))
        return self.to_latent(x)

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents `z` into pictures."""
        x = self.from_latent(z)
        for up in self.up:
            x = up(functional.interpolate(x, scale_factor=2, mode="nearest-exact"))
        return self.write(x)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def begin_with_components(self, pictures: Tensor) -> None:
        """Set the encoder to the principal components of 2x2 blocks, level by level, of `pictures` (B, 12, h, w)."""
        for convolution in [self.read, *self.down, *self.widen, self.to_latent]:
            convolution.weight.zero_()
            convolution.bias.zero_()
        self.read.weight[:12, :, 1, 1] = torch.eye(12)
        x = self.read(pictures)
        for down, widen in zip(self.down, self.widen, strict=True):
            down.weight.copy_(_components(x, down.weight.shape))
            shared = min(widen.weight.shape[:2])
            widen.weight[:shared, :shared, 0, 0] = torch.eye(shared)
            x = widen(down(functional.pad(x, (0, 1, 0, 1))))
        shared = self.to_latent.weight.shape[0]
        self.to_latent.weight[:, :shared, 1, 1] = torch.eye(shared)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def lift(self, size: float = 0.7) -> None:
        """Add a constant to the signal of each level of the decoder, and subtract it in the next level.

        The same function, borders apart. Neutral grey would otherwise be a zero, which the norms of the VAE's residual
        blocks cannot normalise.
        """
        for number, (source, follower) in enumerate([(self.from_latent, self.up[0]), (self.up[0], self.up[1])]):
            generator = torch.Generator().manual_seed(number)
            offset = size * (2.0 * torch.randint(0, 2, source.bias.shape, generator=generator) - 1)
            source.bias += offset
            follower.bias -= follower.weight.sum((2, 3)) @ offset


def _components(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Weights (out, in, 3, 3) that project each 2x2 block of `x` on its first principal components."""
    blocks = functional.unfold(x, 2, stride=2).transpose(1, 2).flatten(0, 1)
    covariance = torch.cov(blocks.T)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    weight = torch.zeros(shape)
    count = min(shape[0], vectors.shape[1])
    weight[:count, :, :2, :2] = vectors[:, :count].T.reshape(count, shape[1], 2, 2)
    return weight


@torch.no_grad()  # type: ignore[untyped-decorator]
def transplant(linear: LinearAutoencoder, vae: AutoencoderKLWan) -> None:
    """Give `vae` (patch size 2, three levels, one residual block a level) the function of `linear`."""
    for block in vae.modules():
        if hasattr(block, "conv_shortcut"):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
            # random taps on earlier frames would make clips something else than pictures one by one
            block.conv1.weight[:, :, :-1] = 0
        elif hasattr(block, "to_qkv"):
            block.proj.weight.zero_()
            block.proj.bias.zero_()
    for name in ("quant_conv", "post_quant_conv"):
        _set(getattr(vae, name), torch.eye(getattr(vae, name).weight.shape[0])[:, :, None, None])
    _encoder(linear, vae.encoder)
    _decoder(linear, vae.decoder)


def _encoder(linear: LinearAutoencoder, encoder: nn.Module) -> None:
    # blocks: residual, down, residual (wider), down, residual (wider)
    _, first, wider, second, widest = encoder.down_blocks
    _set(encoder.conv_in, linear.read.weight, linear.read.bias)
    for target, source in ((first, linear.down[0]), (second, linear.down[1])):
        target.resample[1].weight.copy_(source.weight)
        target.resample[1].bias.copy_(source.bias)
        _average_time(target.time_conv)
    _set(wider.conv_shortcut, linear.widen[0].weight, linear.widen[0].bias)
    last = linear.widen[1]
    _set(widest.conv_shortcut, *_paired(last.weight, last.bias))
    for block in encoder.mid_block.resnets:
        _pass_signals(block.norm1, linear.inner)
    _head(encoder.norm_out, encoder.conv_out, linear.to_latent, signals=linear.inner)


def _decoder(linear: LinearAutoencoder, decoder: nn.Module) -> None:
    _set(decoder.conv_in, linear.from_latent.weight, linear.from_latent.bias)
    for block, source in zip(decoder.up_blocks, linear.up, strict=False):
        resample = block.upsamplers[0]
        weight, bias = source.weight, source.bias
        if weight.shape[0] == linear.outer:
            weight, bias = _paired(weight, bias)
        resample.resample[1].weight.copy_(weight)
        resample.resample[1].bias.copy_(bias)
        _repeat_time(resample.time_conv)
    for block in decoder.up_blocks[-1].resnets:
        _pass_signals(block.norm1, linear.outer)
    _head(decoder.norm_out, decoder.conv_out, linear.write, signals=linear.outer)


def _set(convolution: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    """Set a causal 3-D convolution to a 2-D convolution on the newest frame."""
    convolution.weight.zero_()
    convolution.weight[: weight.shape[0], :, -1] = weight
    convolution.bias.zero_()
    if bias is not None:
        convolution.bias[: bias.shape[0]] = bias


def _paired(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    constants = torch.zeros(2, *weight.shape[1:])
    return torch.cat([weight, -weight, constants]), torch.cat([bias, -bias, torch.full((2,), _CONSTANT)])


def _head(norm: nn.Module, convolution: nn.Module, source: nn.Conv2d, *, signals: int) -> None:
    _pass_signals(norm, signals)
    weight = torch.zeros(source.weight.shape[0], convolution.weight.shape[1], *source.weight.shape[2:])
    weight[:, :signals] = source.weight
    weight[:, signals : 2 * signals] = -source.weight
    _set(convolution, weight, source.bias)


def _pass_signals(norm: nn.Module, signals: int) -> None:
    """Let signals pass a norm: two large constants decide |x|, and gamma undoes the division by |x|."""
    divisor = _CONSTANT * math.sqrt(2) / norm.scale
    norm.gamma[: 2 * signals] = divisor
    norm.gamma[2 * signals :] = divisor / _CONSTANT


def _average_time(convolution: nn.Module) -> None:
    convolution.weight.zero_()
    convolution.bias.zero_()
    convolution.weight[:, :, 1:, 0, 0] = 0.5 * torch.eye(convolution.weight.shape[0])[:, :, None]


def _repeat_time(convolution: nn.Module) -> None:
    channels = convolution.weight.shape[1]
    convolution.weight.zero_()
    convolution.bias.zero_()
    convolution.weight[:, :, 2, 0, 0] = torch.eye(channels).repeat(2, 1)
