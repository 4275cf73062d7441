"""Initialise a small context branch: attention that carries known latents into hidden places.

The first VACE block of a model of 4 heads of 32 is set by hand, from what rotary positions do: a query and a key that
are constant give a score that depends on their distance alone. Two heads look at one place over all frames, one near
by, one widely; all look away from hidden tokens. Gradient descent would need long to find that attention. The output
projection still starts at zero, so that at first the adapted model is the base.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_HEAD_DIM, _HEADS = 32, 4
_NOISE = 64
"""Channels 0..63 carry the noisy latents of a token, 16 channels of 2x2 cells, as `flow.begin_base` puts them."""

_SAID, _MASK = slice(64, 120), slice(120, 124)
"""Where the branch carries what the control says (14 of 16 channels of 2x2 cells), and how much of a cell is hidden."""

_TIME, _ROWS, _COLUMNS = 0, 12, 22
"""First dimension of each axis in a head's rotary positions; pairs from the highest frequency down."""

_SAID_GAIN, _MASK_GAIN, _CARRIED_GAIN = 1.0, 3.0, 6.0
_SUPPRESSION = 10.0

_NORMALISED = 1.3
"""By how much the layer norm enlarges a token of these parts, as measured."""

_SHARP = {0: 6.0, 1: 20.0}
_NEAR = {0: 1.5, 1: 12.0}
_WIDE = {1: 10.0}
_KERNELS = (_SHARP, _SHARP, _NEAR, _WIDE)
"""Fall of the score with the distance in rows and columns, for each head: amplitudes of cosines of pairs 0, 1, .."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def begin_by_spreading(model: nn.Module, neutral: Tensor) -> None:
    """Set the first VACE block of `model`, after `flow.begin_context`; `neutral` is the latent, (16,), of grey."""
    _embed(model.vace_patch_embedding, neutral)
    block = model.vace_blocks[0]
    _calm_modulation(model, block)
    for projection in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v, block.attn1.to_out[0]):
        projection.weight.mul_(0.05)
        projection.bias.zero_()
    block.attn1.to_q.bias.fill_(1.0)
    block.attn1.to_k.bias.fill_(1.0)
    for head, kernel in enumerate(_KERNELS):
        _set_scores(block.attn1, head, kernel)
    _set_values(block.attn1, _noise_in(model.patch_embedding))


def _embed(patch: nn.Conv3d, neutral: Tensor) -> None:
    """Embed the control's channels, (inactive 16, reactive 16, mask 64) of 2x2 cells, into the branch's channels."""
    patch.weight.zero_()
    patch.bias.zero_()
    for channel in range(14):
        for cell in range(4):
            row, column = divmod(cell, 2)
            target = _SAID.start + 4 * channel + cell
            patch.weight[target, channel, 0, row, column] = _SAID_GAIN
            patch.weight[target, 16 + channel, 0, row, column] = _SAID_GAIN
            patch.bias[target] = -2 * _SAID_GAIN * neutral[channel]
    for cell in range(4):
        row, column = divmod(cell, 2)
        patch.weight[_MASK.start + cell, 32:, 0, row, column] = 2 * _MASK_GAIN / 64
        patch.bias[_MASK.start + cell] = -_MASK_GAIN


def _calm_modulation(model: nn.Module, block: nn.Module) -> None:
    """Set the first attention's modulation to no shift, no scale and a full gate, at the middle of the times."""
    embedder = model.condition_embedder
    times = torch.linspace(300, 1000, 8)
    projected = embedder.time_proj(embedder.act_fn(embedder.time_embedder(embedder.timesteps_proj(times))))
    middle = projected.mean(0).unflatten(0, (6, -1))
    block.scale_shift_table[0, :3] = -middle[:3]
    block.scale_shift_table[0, 2] += 1


def _set_scores(attention: nn.Module, head: int, kernel: dict[int, float]) -> None:
    """Set the norm weights that give each head its kernel, and the keys that lower the score of hidden tokens."""
    amplitudes = torch.full((_HEAD_DIM,), 0.02)
    for pair, height in kernel.items():
        for axis in (_ROWS, _COLUMNS):
            amplitudes[axis + 2 * pair : axis + 2 * pair + 2] = height
    amplitudes[_TIME + 2 : _TIME + 4] = 0.7
    slowest = _TIME + 10
    amplitudes[slowest : slowest + 2] = _SUPPRESSION
    first = head * _HEAD_DIM
    weight = (amplitudes * math.sqrt(_HEAD_DIM) / 2).sqrt()
    attention.norm_q.weight[first : first + _HEAD_DIM] = weight
    attention.norm_k.weight[first : first + _HEAD_DIM] = weight
    for dimension in (first + slowest, first + slowest + 1):
        attention.to_k.bias[dimension] = 0.0
        attention.to_k.weight[dimension] = 0.0
        attention.to_k.weight[dimension, _MASK] = -0.5 / _MASK_GAIN


def _noise_in(patch: nn.Conv3d) -> Tensor:
    """Measure how much of channels 0..63 the base adds to each other channel, (64, 64): the noisy input is in both."""
    weight = patch.weight.flatten(1)
    mixed: Tensor = weight[_NOISE:] @ torch.linalg.inv(weight[:_NOISE])
    return mixed


def _set_values(attention: nn.Module, noise: Tensor) -> None:
    """Set the values: heads 0 and 1 carry all known channels, heads 2 and 3 the first eight, each to its own place."""
    said = torch.arange(_SAID.start, _SAID.stop)
    shares = [(0, said[:28], 1.0), (1, said[28:], 1.0), (2, said[:32], 0.3), (3, said[:32], 0.1)]
    for head, channels, share in shares:
        dims = head * _HEAD_DIM + torch.arange(len(channels))
        attention.to_v.weight[dims, channels] += 1 / (_NORMALISED * _SAID_GAIN)
        attention.to_v.weight[dims, :_NOISE] -= noise[channels - _NOISE] / (_NORMALISED * _SAID_GAIN)
        coarse = channels < _SAID.start + 32
        portion = torch.where(coarse & (share == 1.0), 0.6, share)
        attention.to_out[0].weight[channels, dims] += _CARRIED_GAIN * portion
