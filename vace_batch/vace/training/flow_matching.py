"""Flow matching: the loss between noise and data, and the start of the weights that it trains.

Axes: B samples, C channels, t latent frames, h rows, w columns, L text rows, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vace_batch.vace.profiles import TEXT_TOKENS

_TIMESTEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """Samples of one shape. `latents_BCthw` holds reference frames first, as `control_BCthw` does.

    `text_BLD` is either padded in full (512 rows) or has one last zero row that stands for all padding.
    `weights_BCthw`, which may be broadcast, say how much each value counts in the loss; without them all count alike.
    """

    latents_BCthw: Tensor
    control_BCthw: Tensor
    text_BLD: Tensor
    weights_BCthw: Tensor | None = None


def flow_loss(
    model: nn.Module,
    batch: TrainingBatch,
    *,
    flow_shift: float,
    generator: torch.Generator,
    hints: float | None = 1.0,
    pure_noise: float = 0.0,
) -> Tensor:
    """Compute the mean squared error of the velocity, noise - data, that `model` predicts at a random time.

    Times are drawn evenly on the schedule of sampling, that is shifted: sigma = s u / (1 + (s - 1) u); the share
    `pure_noise` of them is 1, where sampling starts. `hints` scales the context branch; None calls a base model, which
    has none.
    """
    data = batch.latents_BCthw
    uniform = torch.rand(len(data), generator=generator)
    if pure_noise:
        uniform = torch.where(torch.rand(len(data), generator=generator) < pure_noise, 1.0, uniform)
    sigma = flow_shift * uniform / (1 + (flow_shift - 1) * uniform)
    noise = torch.randn(data.shape, generator=generator)
    mixed = torch.lerp(data, noise, sigma[:, None, None, None, None])
    conditions: dict[str, Any] = {}
    if hints is not None:
        scale = torch.full((len(model.config.vace_layers),), hints)
        conditions = {"control_hidden_states": batch.control_BCthw, "control_hidden_states_scale": scale}
    velocity = model(
        hidden_states=mixed,
        timestep=sigma * _TIMESTEPS,
        encoder_hidden_states=batch.text_BLD,
        return_dict=False,
        **conditions,
    )[0]
    return functional.mse_loss(velocity.float(), noise - data, weight=_weights(batch))


def _weights(batch: TrainingBatch) -> Tensor | None:
    """Return the batch's weights in the shape of the latents, with mean 1."""
    if batch.weights_BCthw is None:
        return None
    weights = batch.weights_BCthw.expand_as(batch.latents_BCthw)
    return weights / weights.mean()


class PaddedText:
    """Cross-attention over few text rows, the last for all padding; equal to attention over 512 rows.

    Padding rows are equal, so that n of them are one row with log n added to its score.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object, **__: object
    ) -> Tensor:
        query, key, value = (
            projected.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projected in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(encoder_hidden_states)),
                attn.to_v(encoder_hidden_states),
            )
        )
        rows = encoder_hidden_states.shape[1]
        bias = hidden_states.new_zeros(rows)
        bias[-1] = math.log(TEXT_TOKENS - rows + 1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.expand(1, 1, 1, rows))
        output: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return output


def use_padded_text(model: nn.Module) -> None:
    """Make every cross-attention of `model` take text in the short form of `TrainingBatch`."""
    for name, module in model.named_modules():
        if name.endswith("attn2"):
            module.processor = PaddedText()


def context_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Freeze the base of a VACE model and return the context branch's parameters by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_"))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()  # type: ignore[untyped-decorator]
def begin_context(model: nn.Module) -> None:
    """Start the context branch as VACE's did: its blocks copy the base's, its output projections are zero."""
    layers: Iterable[int] = model.config.vace_layers
    for layer, block in zip(layers, model.vace_blocks, strict=True):
        block.load_state_dict(model.blocks[layer].state_dict(), strict=False)
        for projection in (block.proj_in, block.proj_out):
            if projection is not None:
                nn.init.zeros_(projection.weight)
                nn.init.zeros_(projection.bias)
        if block.proj_in is not None:
            nn.init.eye_(block.proj_in.weight)


@torch.no_grad()  # type: ignore[untyped-decorator]
def begin_base(model: nn.Module) -> None:
    """Start near the answer for almost pure noise: the noisy input itself, carried by the first channels."""
    patch = model.patch_embedding
    channels = patch.in_channels * math.prod(patch.kernel_size)
    patch.weight[:channels].copy_(torch.eye(channels).reshape(channels, *patch.weight.shape[1:]))
    patch.bias.zero_()
    # the output is ordered (rows, columns, channels), the input (channels, rows, columns)
    order = torch.arange(channels).reshape(patch.in_channels, -1).T.flatten()
    weight = model.proj_out.weight
    weight.mul_(0.1)
    weight[:, :channels] += 0.6 * torch.eye(channels)[order]


def ramp(step: int, steps: int, *, warmup: int) -> float:
    """Return the share of the learning rate at `step`: up over `warmup` steps, then down a cosine to a fiftieth."""
    rising = min(1.0, (step + 1) / warmup)
    falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
    return rising * falling
