"""Weights for the embedded model while none ship: the same bits in every process, on every machine.

Each parameter is drawn from its own stream, keyed by its name, out of integers: torch's normal numbers go through
vectorised logarithms, whose last bits depend on the processor, and through a generator that everyone shares.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from importlib.resources import as_file
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanVACETransformer3DModel
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, UMT5EncoderModel

from vace_batch.profiles import TINY, TINY_SEED, model_files

_BIAS = 0.2

_GAINS = {
    # An untrained decoder is then a calm mid-gray with faint texture, not saturated noise.
    "vae/decoder.conv_out.weight": 0.05,
    "vae/decoder.conv_out.bias": 0.0,
    # Beside a unit input larger positional biases would make attention look at single bytes only.
    "text_encoder/encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 0.3,
    "text_encoder/encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": 0.3,
}


def write_seeded(directory: Path) -> None:
    """Write the embedded model into `directory` in the diffusers layout, with weights made from the seed.

    Raises:
        OSError: `directory` cannot be written to.
    """
    with as_file(model_files(TINY)) as source:
        shutil.copytree(source, directory, dirs_exist_ok=True)
    for component, module in _modules(directory).items():
        weights = {name: _draw(f"{component}/{name}", parameter) for name, parameter in module.named_parameters()}
        file = "model.safetensors" if component == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(weights, directory / component / file, metadata={"format": "pt"})


def _modules(directory: Path) -> dict[str, nn.Module]:
    """The components without weights: on the meta device nothing is drawn or allocated."""
    transformer = WanVACETransformer3DModel.load_config(directory, subfolder="transformer")
    vae = AutoencoderKLWan.load_config(directory, subfolder="vae")
    text_encoder = AutoConfig.from_pretrained(directory, subfolder="text_encoder")
    with torch.device("meta"):
        return {
            "transformer": WanVACETransformer3DModel.from_config(transformer),
            "vae": AutoencoderKLWan.from_config(vae),
            "text_encoder": UMT5EncoderModel(text_encoder),
        }


def _draw(name: str, parameter: nn.Parameter) -> torch.Tensor:
    """Uniform weights of variance 1/fan_in, so that signals keep their size; norms 1; small biases.

    Without biases all of a neutral video would be zero on its way, and its latent a constant in space and time.
    """
    shape = tuple(parameter.shape)
    if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
        return torch.ones(shape)
    bound = _GAINS.get(name, 1.0) * (_BIAS if len(shape) == 1 else math.sqrt(3 / _fan_in(name, shape)))
    key = int.from_bytes(hashlib.blake2b(f"{TINY_SEED}/{name}".encode(), digest_size=16).digest(), "little")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    uniform = (raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    return torch.from_numpy((bound * uniform).astype(np.float32).reshape(shape))


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    if "shared" in name or "attention_bias" in name:
        return 1
    return shape[-1] if name.endswith("scale_shift_table") else math.prod(shape[1:])
