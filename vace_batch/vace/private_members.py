"""Private members of diffusers and torch that VACE needs, gathered here because an upgrade may remove them.

Axes: B windows, C channels, T frames, t latent frames, H rows, W columns, h = H/8, w = W/8.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, ContextParallelConfig, WanVACETransformer3DModel
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput, ParallelConfig
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

VAE_MEMBERS = ("_enc_conv_idx", "_enc_feat_map", "_conv_idx", "_feat_map")
"""Attributes that `AutoencoderKLWan.clear_cache` sets."""

MEMBERS = (
    "diffusers.models._modeling_parallel:ContextParallelInput",
    "diffusers.models._modeling_parallel:ContextParallelOutput",
    "diffusers.models._modeling_parallel:ParallelConfig.setup",
    "diffusers.models.transformers.transformer_wan:WanAttnProcessor._parallel_config",
    "torch:_dynamo.config.recompile_limit",
    "torch.distributed.distributed_c10d:_abort_process_group",
    "torch.nn:Conv3d._conv_forward",
)
"""Every other private member used below; `tests/vace/test_private_members.py` looks for each by name."""

_TOKENS = ContextParallelInput(split_dim=1, expected_dims=3)
_ROTARY = ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)
VACE_PLAN: dict[str, Any] = {
    "rope": {0: _ROTARY, 1: _ROTARY},
    "vace_blocks.0": {"hidden_states": _TOKENS, "control_hidden_states": _TOKENS},
    "blocks.0": {"hidden_states": _TOKENS},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}
"""Where the tokens of both towers are split and gathered; diffusers has no plan for VACE."""


def encode_piece(vae: AutoencoderKLWan, pixels_BCTHW: torch.Tensor) -> torch.Tensor:
    """Encode the next frames of a video; the VAE keeps the frames before them until `clear_cache`."""
    vae._enc_conv_idx = [0]
    hidden: torch.Tensor = vae.encoder(pixels_BCTHW, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx)
    return hidden


def decode_piece(vae: AutoencoderKLWan, hidden_BCthw: torch.Tensor, *, is_first: bool) -> torch.Tensor:
    """Decode the next latent frames of a video; the VAE keeps the frames before them until `clear_cache`."""
    vae._conv_idx = [0]
    pixels: torch.Tensor = vae.decoder(
        hidden_BCthw, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=is_first
    )
    return pixels


def parallel_config(config: ContextParallelConfig, device: torch.device, mesh: DeviceMesh) -> ParallelConfig:
    """Make the configuration that attention needs to exchange heads within this process's group."""
    whole = ParallelConfig(context_parallel_config=config)
    whole.setup(dist.get_rank(), dist.get_world_size(), device, mesh=mesh)
    return whole


def set_parallel(transformer: WanVACETransformer3DModel, config: ParallelConfig | None) -> None:
    """Give every attention of a transformer the configuration, or take the configuration away."""
    for module in transformer.modules():
        if isinstance(module, WanAttention):
            module.processor._parallel_config = config


def replace_convolution(module: nn.Conv3d, convolve: Callable[..., torch.Tensor]) -> None:
    """Let a convolution compute by `convolve(module, x, weight, bias)`."""
    module._conv_forward = MethodType(convolve, module)


def allow_recompiles(limit: int) -> None:
    """Raise the number of graphs that torch compiles for one function to at least `limit`."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)


def abort_group() -> None:
    """End the waiting exchanges of a process group on NCCL."""
    dist.distributed_c10d._abort_process_group()
