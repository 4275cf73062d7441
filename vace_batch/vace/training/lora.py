"""Train a LoRA: add low-rank weights to the context branch's linear layers, and save them in diffusers' form."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _LowRank(nn.Module):  # type: ignore[misc]
    """weight + up @ down; `up` starts at zero, so that nothing is changed at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).to(weight.dtype)


def add_lora(model: nn.Module, rank: int) -> dict[str, nn.Parameter]:
    """Freeze `model`, add a LoRA of `rank` to each linear weight of its VACE blocks; return the LoRAs' weights by name.

    The names are those of the file that `save_lora` writes.
    """
    model.requires_grad_(False)
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if name.startswith("vace_blocks.") and isinstance(module, nn.Linear)
    ]
    trained: dict[str, nn.Parameter] = {}
    for name, module in linear:
        change = _LowRank(module.weight, rank).to(module.weight.device)
        parametrize.register_parametrization(module, "weight", change)
        trained[f"transformer.{name}.lora_A.weight"] = change.down
        trained[f"transformer.{name}.lora_B.weight"] = change.up
    return trained


def save_lora(weights: dict[str, Tensor], path: Path) -> None:
    """Write LoRA weights to a safetensors file that `--lora` takes."""
    save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, path, {"format": "pt"})
