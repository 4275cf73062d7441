"""Wan's own names of weights, as LoRAs and original checkpoints have them."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanVACETransformer3DModel

from vace_batch.vace.wan_names import original_name


@pytest.mark.parametrize(
    ("ours", "wan"),
    [
        ("blocks.0.attn1.to_q.weight", "blocks.0.self_attn.q.weight"),
        ("blocks.3.attn2.to_out.0.bias", "blocks.3.cross_attn.o.bias"),
        ("vace_blocks.1.proj_out.weight", "vace_blocks.1.after_proj.weight"),
        ("condition_embedder.time_embedder.linear_1.weight", "time_embedding.0.weight"),
        ("proj_out.weight", "head.head.weight"),
        ("scale_shift_table", "head.modulation"),
        ("patch_embedding.weight", "patch_embedding.weight"),
    ],
)
def test_a_weight_has_its_original_name(ours: str, wan: str) -> None:
    assert original_name(ours) == wan


def test_no_two_weights_of_a_model_share_an_original_name() -> None:
    with torch.device("meta"):
        model = WanVACETransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, ffn_dim=32, num_layers=4, vace_layers=[0, 2]
        )
    names = [original_name(name) for name in model.state_dict()]
    assert len(set(names)) == len(names)
