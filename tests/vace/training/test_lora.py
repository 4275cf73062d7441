"""A LoRA in training: no change at first, and a file with a pair for each weight."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.training_models import adapted
from vace_batch.vace.training.lora import add_lora, save_lora


def test_a_new_lora_changes_no_weight_and_alone_is_trained() -> None:
    model = adapted()
    before = model.vace_blocks[0].attn1.to_q.weight.detach().clone()
    trained = add_lora(model, 4)
    assert torch.equal(model.vace_blocks[0].attn1.to_q.weight, before)
    assert {id(one) for one in model.parameters() if one.requires_grad} == {id(one) for one in trained.values()}
    assert {tuple(one.shape)[0] for name, one in trained.items() if "lora_A" in name} == {4}


def test_the_file_has_a_pair_of_each_weight_by_its_name(tmp_path: Path) -> None:
    trained = add_lora(adapted(), 2)
    save_lora({name: one.detach() for name, one in trained.items()}, tmp_path / "lora.safetensors")
    names = load_file(tmp_path / "lora.safetensors").keys()
    assert "transformer.vace_blocks.0.attn1.to_q.lora_A.weight" in names
    assert {name.replace("lora_A", "lora_B") for name in names if "lora_A" in name} == {
        n for n in names if "lora_B" in n
    }
