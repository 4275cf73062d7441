"""A base model and a VACE model of two small layers, and batches for them."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor

from vace_batch.vace.training.flow_matching import (
    TrainingBatch,
    begin_base,
    begin_context,
)

WIDTHS = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
}


def base() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(**WIDTHS)
    begin_base(model)
    return model


def adapted() -> WanVACETransformer3DModel:
    torch.manual_seed(0)  # also for weights that no step below sets
    model = WanVACETransformer3DModel(**WIDTHS, vace_layers=[0, 1], vace_in_channels=12)
    model.load_state_dict(base().state_dict(), strict=False)
    begin_context(model)
    return model


def batch(generator: np.random.Generator, count: int = 4) -> TrainingBatch:
    """Make latents of one random constant each; only the control shows the constant."""
    constants = torch.from_numpy(generator.normal(0, 1, (count, 4, 1, 1, 1)).astype(np.float32))
    latents = constants.expand(count, 4, 2, 4, 4).contiguous()
    return TrainingBatch(
        latents_BCthw=latents,
        control_BCthw=torch.cat([latents, torch.zeros(count, 8, 2, 4, 4)], dim=1),
        text_BLD=torch.zeros(count, 3, 8),
    )


def forward(model: torch.nn.Module, given: TrainingBatch, **control: Tensor) -> Tensor:
    arguments = {"hidden_states": given.latents_BCthw, "timestep": torch.tensor([500.0] * 4)}
    with torch.no_grad():
        return model(**arguments, encoder_hidden_states=given.text_BLD, return_dict=False, **control)[0]
