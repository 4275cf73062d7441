"""Reuse the blocks' result of an earlier step: one gate for both of VACE's towers, the context branch included.

The first main block sees every change of latents and time. Where its residual has hardly moved since the last step
that ran everything, what all other blocks and the hints added then is added again. diffusers' own caches hook the main
blocks only and add the hints a second time. The method is FirstBlockCache's, per window of a batch, so that a window's
result does not depend on its neighbours.

Axes: B windows, N tokens, D channels; the latents are (B, C, t, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from diffusers import WanVACETransformer3DModel


class StepCache:
    """The memory of one sampler run for one of its two branches (conditional or unconditional).

    `threshold` is the relative mean change of the first block's residual up to which a window's step is reused.
    `hits` and `runs` count windows' steps.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._gate_BND: torch.Tensor | None = None
        self._added_BND: torch.Tensor | None = None
        self.hits = 0
        self.runs = 0

    def add_rest(
        self, tokens_BND: torch.Tensor, gate_BND: torch.Tensor, rest: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the tokens after all blocks; `rest(windows)` runs the blocks for these windows (an index of B)."""
        stale = self._stale(gate_BND)
        self.runs += len(stale)
        self.hits += len(gate_BND) - len(stale)
        if self._gate_BND is None or self._added_BND is None:
            self._gate_BND, self._added_BND = gate_BND.clone(), torch.empty_like(tokens_BND)
        if len(stale):
            self._added_BND[stale] = rest(stale) - tokens_BND[stale]
            self._gate_BND[stale] = gate_BND[stale]
        return tokens_BND + self._added_BND

    def _stale(self, gate_BND: torch.Tensor) -> torch.Tensor:
        """Return the index of the windows whose first block has changed beyond the threshold."""
        if self._gate_BND is None:
            return torch.arange(len(gate_BND), device=gate_BND.device)
        moved = (gate_BND - self._gate_BND).abs().float().mean(dim=(1, 2))
        return (moved > self._threshold * self._gate_BND.abs().float().mean(dim=(1, 2))).nonzero().flatten()


def install(transformer: WanVACETransformer3DModel) -> None:
    """Let `transformer` take a `step_cache`; without one nothing changes. Call before hooks wrap its forward."""
    transformer.forward = MethodType(_forward, transformer)


def _forward(self: WanVACETransformer3DModel, *args: Any, step_cache: StepCache | None = None, **kwargs: Any) -> Any:
    if step_cache is None:
        return WanVACETransformer3DModel.forward(self, *args, **kwargs)
    return (_cached(self, step_cache, **kwargs),)


def _cached(
    self: WanVACETransformer3DModel,
    cache: StepCache,
    *,
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    control_hidden_states: torch.Tensor,
    control_hidden_states_scale: torch.Tensor,
    return_dict: bool,
) -> torch.Tensor:
    """`WanVACETransformer3DModel.forward` of diffusers 0.42 with the gate between its embeddings and its blocks."""
    rotary = self.rope(hidden_states)
    tokens_BND = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
    control_BND = self.vace_patch_embedding(control_hidden_states).flatten(2).transpose(1, 2)
    time, modulation, text_BLD, _ = self.condition_embedder(timestep, encoder_hidden_states, None)
    modulation = modulation.unflatten(1, (6, -1))
    first_BND = self.blocks[0](tokens_BND, text_BLD, modulation, rotary)

    def rest(windows: torch.Tensor) -> torch.Tensor:
        x, text, shift = tokens_BND[windows], text_BLD[windows], modulation[windows]
        hints, control = [], control_BND[windows]
        for block in self.vace_blocks:
            hint, control = block(x, text, control, shift, rotary)
            hints.append(hint)
        x = first_BND[windows]
        for number, block in enumerate(self.blocks):
            if number:
                x = block(x, text, shift, rotary)
            if number in self.config.vace_layers:
                position = self.config.vace_layers.index(number)
                x = x + hints[position] * control_hidden_states_scale[position]
        return x

    output_BND = cache.add_rest(tokens_BND, first_BND - tokens_BND, rest)
    shift, scale = (self.scale_shift_table.to(time.device) + time.unsqueeze(1)).chunk(2, dim=1)
    output_BND = self.proj_out((self.norm_out(output_BND.float()) * (1 + scale) + shift).type_as(output_BND))
    return _unpatch(output_BND, hidden_states.shape[2:], self.config.patch_size)


def _unpatch(tokens_BND: torch.Tensor, shape_thw: torch.Size, patch_thw: tuple[int, int, int]) -> torch.Tensor:
    """Rearrange tokens into latents (B, C, t, h, w)."""
    grid = [side // patch for side, patch in zip(shape_thw, patch_thw, strict=True)]
    blocks = tokens_BND.reshape(len(tokens_BND), *grid, *patch_thw, tokens_BND.shape[2] // math.prod(patch_thw))
    return blocks.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
