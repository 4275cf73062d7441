"""Convert a model saved under Wan's own names; the converted model has equal outputs."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from tests.vace.test_model import one_window
from vace_batch.errors import UsageError
from vace_batch.vace.convert import convert
from vace_batch.vace.model import load
from vace_batch.vace.profiles import model_files, profile
from vace_batch.vace.wan_names import original_name

Tensors = dict[str, torch.Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def vae_name(name: str) -> str:
    """Return Wan's own name of a weight of diffusers' VAE, from the structure of the module list."""
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
    name = name.replace("down_blocks", "downsamples")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle.1")
    name = name.replace("norm1.gamma", "residual.0.gamma").replace("norm2.gamma", "residual.3.gamma")
    name = re.sub(r"\.conv1\.(weight|bias)$", r".residual.2.\1", name)
    name = re.sub(r"\.conv2\.(weight|bias)$", r".residual.6.\1", name)
    name = name.replace("conv_shortcut", "shortcut").replace("conv_in", "conv1")
    name = name.replace("norm_out", "head.0").replace("conv_out", "head.2")
    return re.sub("^quant_conv", "conv1", re.sub("^post_quant_conv", "conv2", name))


def t5_name(name: str) -> str:
    name = name.replace("shared.", "token_embedding.").replace("encoder.final_layer_norm.", "norm.")
    name = name.replace("encoder.block.", "blocks.").replace("layer.0.layer_norm", "norm1")
    name = name.replace("layer.1.layer_norm", "norm2").replace(
        "layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"
    )
    name = name.replace("layer.0.SelfAttention", "attn").replace("layer.1.DenseReluDense.wi_0", "ffn.gate.0")
    return name.replace("layer.1.DenseReluDense.wi_1", "ffn.fc1").replace("layer.1.DenseReluDense.wo", "ffn.fc2")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in the diffusers layout, with a narrow VAE of the published structure."""
    root = tmp_path_factory.mktemp("diffusers")
    shutil.copytree(str(model_files("tiny")), root, dirs_exist_ok=True)
    torch.manual_seed(0)
    shutil.rmtree(root / "vae")
    AutoencoderKLWan(base_dim=8).save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="module")
def original(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in Wan's published form: two shards, two pickles, a tokenizer."""
    root = tmp_path_factory.mktemp("original")
    transformer = {original_name(name): w for name, w in load_file(ours / "transformer" / WEIGHTS).items()}
    names = sorted(transformer)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file(
            {name: transformer[name] for name in part},
            root / f"diffusion_pytorch_model-{number:05}-of-00002.safetensors",
        )
    ours_config = json.loads((ours / "transformer/config.json").read_text())
    config = {"_class_name": "VaceWanModel", "num_heads": ours_config["num_attention_heads"], "eps": 1e-6}
    (root / "config.json").write_text(json.dumps(config | {"vace_layers": ours_config["vace_layers"]}))
    vae = {vae_name(name): w for name, w in load_file(ours / "vae" / WEIGHTS).items()}
    torch.save(vae, root / "Wan2.1_VAE.pth")
    text = load_file(ours / "text_encoder/model.safetensors")
    torch.save({t5_name(name): w for name, w in text.items()}, root / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(ours / "tokenizer", root / "google" / "umt5-xxl")
    return root


def digests(root: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("*.pth")]


def test_an_original_checkpoint_gives_the_same_pixels(ours: Path, original: Path, tmp_path: Path) -> None:
    said: list[str] = []
    convert(original, tmp_path / "new", allowed=digests(original), say=said.append)
    assert len(said) == 3 and not list((tmp_path / "new").rglob("*.pth"))
    np.testing.assert_array_equal(
        one_window(load(str(tmp_path / "new"), device="cpu")), one_window(load(str(ours), device="cpu"))
    )
    found, wanted = (profile(str(root)).architecture for root in (tmp_path / "new", ours))
    assert found == wanted


def test_an_original_checkpoint_that_is_loaded_says_what_to_do(original: Path) -> None:
    with pytest.raises(UsageError, match="original checkpoint.*`vace-batch convert"):
        load(str(original), device="cpu")


def test_unknown_pickles_are_refused_by_digest_and_leave_nothing(original: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Wan2.1_VAE.pth: a pickle, .* --allow-pickle [0-9a-f]{64}"):
        convert(original, tmp_path / "new", say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_a_pickle_runs_nothing_even_when_it_is_allowed(original: Path, tmp_path: Path) -> None:
    root = shutil.copytree(original, tmp_path / "original")
    (root / "Wan2.1_VAE.pth").write_bytes(pickle.dumps({"encoder.conv1.weight": Hostile(tmp_path / "ran")}))
    with pytest.raises(UsageError, match="holds more than weights"):
        convert(root, tmp_path / "new", allowed=digests(root), say=lambda _: None)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


def test_safetensors_of_the_same_weights_need_no_leave(ours: Path, original: Path, tmp_path: Path) -> None:
    root = shutil.copytree(original, tmp_path / "original")
    for file in root.glob("*.pth"):
        save_file(
            {k: v.contiguous() for k, v in torch.load(file, weights_only=True).items()},
            file.with_suffix(".safetensors"),
        )
        file.unlink()
    convert(root, tmp_path / "new", say=lambda _: None)
    np.testing.assert_array_equal(
        one_window(load(str(tmp_path / "new"), device="cpu")), one_window(load(str(ours), device="cpu"))
    )


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("Wan2.1_VAE.pth", "expected a VAE"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "expected a text encoder"),
        ("google", "no tokenizer"),
        (
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "transformer: [0-9]+ weights are wrong: .* is missing|no weight",
        ),
    ],
)
def test_what_is_missing_is_named(original: Path, tmp_path: Path, broken: str, words: str) -> None:
    root = shutil.copytree(original, tmp_path / "original")
    shutil.rmtree(root / broken) if broken == "google" else (root / broken).unlink()
    with pytest.raises(UsageError, match=words):
        convert(root, tmp_path / "new", allowed=digests(root), say=lambda _: None)
    with pytest.raises(UsageError, match="not an original VACE checkpoint"):
        convert(tmp_path, tmp_path / "new", say=lambda _: None)
    with pytest.raises(UsageError, match="exists already"):
        convert(root, root, say=lambda _: None)
