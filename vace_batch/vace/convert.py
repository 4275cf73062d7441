"""Convert original VACE checkpoints (`Wan2.1-VACE-1.3B`, `-14B`) to the diffusers layout, in safetensors.

diffusion_pytorch_model*.safetensors       transformer/     names changed, shard by shard
Wan2.1_VAE.pth                             vae/             a pickle: read when its digest is a published one
models_t5_umt5-xxl-enc-bf16.pth            text_encoder/    the same
google/umt5-xxl/                           tokenizer/
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanVACETransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from vace_batch.errors import UsageError
from vace_batch.vace.profiles import TINY, model_files
from vace_batch.vace.wan_names import original_name

Tensors = dict[str, torch.Tensor]

PUBLISHED = {
    "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981": "Wan2.1_VAE.pth",
    "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d": "models_t5_umt5-xxl-enc-bf16.pth",
}
"""SHA-256 of the pickles that are published with Wan 2.1."""

_HEAD_DIM = 128
_WEIGHTS = "diffusion_pytorch_model"
_T5_IN_BLOCKS = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
    **{f"attn.{name}.weight": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"},
}


def convert(source: Path, target: Path, *, allowed: Collection[str] = (), say: Callable[[str], None] = print) -> None:
    """Write the original checkpoint in `source` to the new folder `target`, which appears when it is whole.

    Pickles are read without running what is in them (torch's weights_only), and only those whose SHA-256 is published
    or in `allowed`.

    Raises:
        UsageError: something is missing, is not what its name says, or is a pickle that nobody knows.
    """
    if target.exists():
        raise UsageError(f"{target}: exists already; name a new folder")
    shards = _shards(source)
    vae = _one(source, "a VAE (Wan2.1_VAE.pth or a .safetensors of it)", ("*VAE*", "*vae*"))
    text = _one(source, "a text encoder (models_t5_umt5-xxl-enc-bf16.pth)", ("*t5*",))
    tokenizer = next((path.parent for path in sorted(source.rglob("tokenizer_config.json"))), None)
    if tokenizer is None:
        raise UsageError(f"{source}: no tokenizer (google/umt5-xxl/) in it")
    draft = target.with_name(target.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for name in ("model_index.json", "scheduler/scheduler_config.json"):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(model_files(TINY).joinpath(*name.split("/")).read_bytes())
        shutil.copytree(tokenizer, draft / "tokenizer", ignore=shutil.ignore_patterns("*.bin", "*.pt*", ".*"))
        _name_tokenizer(draft)
        say(f"transformer: {len(shards)} file(s)")
        _transformer(source, shards, draft / "transformer")
        say(f"vae: {vae.name}")
        _vae(_read(vae, allowed), draft / "vae")
        say(f"text encoder: {text.name}")
        _text_encoder(_read(text, allowed), draft / "text_encoder")
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _shards(source: Path) -> list[Path]:
    shards = sorted(source.glob(f"{_WEIGHTS}*.safetensors"))
    if not shards:
        pickles = sorted(path.name for path in source.glob(f"{_WEIGHTS}*") if path.suffix in (".bin", ".pth"))
        hint = f"; {pickles[0]} is a pickle" if pickles else ""
        raise UsageError(f"{source}: no {_WEIGHTS}*.safetensors in it: not an original VACE checkpoint{hint}")
    return shards


def _one(source: Path, what: str, patterns: Iterable[str]) -> Path:
    for suffix in (".safetensors", ".pth"):
        for pattern in patterns:
            if found := sorted(source.glob(pattern + suffix)):
                return found[0]
    raise UsageError(f"{source}: expected {what}, found no such file")


def _read(path: Path, allowed: Collection[str]) -> Tensors:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest not in PUBLISHED and digest not in allowed:
        raise UsageError(
            f"{path}: a pickle, which can run code, and Wan published no file with its SHA-256 {digest}. "
            f"Fetch it again, or, if you know where it comes from, allow it by --allow-pickle {digest}"
        )
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UsageError(f"{path}: not loaded, because the file holds more than weights: {error}") from error
    return {str(name): tensor for name, tensor in tensors.items()}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: not a safetensors file: {error}") from error


# --- the components --------------------------------------------------------------------------------------------------


def _transformer(source: Path, shards: list[Path], folder: Path) -> None:
    """Convert the transformer shard by shard, so that memory does not grow with the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in shards:
        with _opened(path) as file:
            shapes |= {_bare(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    config = _transformer_config(source, shapes)
    with torch.device("meta"):
        model = WanVACETransformer3DModel(**config)
    wanted = {original_name(name): (name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    _check("transformer", {name: shape for name, (_, shape) in wanted.items()}, shapes)
    folder.mkdir()
    index: dict[str, str] = {}
    for number, path in enumerate(shards):
        name = _WEIGHTS + (f"-{number + 1:05}-of-{len(shards):05}" if len(shards) > 1 else "") + ".safetensors"
        with _opened(path) as file:
            tensors = {wanted[_bare(key)][0]: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(path.stat().st_size for path in folder.iterdir())
        body = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / f"{_WEIGHTS}.safetensors.index.json").write_text(json.dumps(body))
    _write_config(folder, {"_class_name": "WanVACETransformer3DModel", **config})


def _bare(name: str) -> str:
    return name.removeprefix("model.").removeprefix("diffusion_model.")


def _transformer_config(source: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read the transformer's configuration from the shapes of its weights and from the source's config.json, if any."""
    path = source / "config.json"
    given: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    try:
        dim, channels, *_ = shapes["patch_embedding.weight"]
        vace_channels = shapes["vace_patch_embedding.weight"][1]
        ffn_dim = shapes["blocks.0.ffn.0.weight"][0]
        text_dim = shapes["text_embedding.0.weight"][1]
        freq_dim = shapes["time_embedding.0.weight"][1]
        head = shapes["head.head.weight"][0]
    except KeyError as error:
        raise UsageError(f"{source}: no weight {error} in it; not an original VACE checkpoint") from None
    layers, vace_layers = _count("blocks", shapes), _count("vace_blocks", shapes)
    heads = int(given.get("num_heads", dim // _HEAD_DIM))
    return {
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "ffn_dim": ffn_dim,
        "text_dim": text_dim,
        "freq_dim": freq_dim,
        "in_channels": channels,
        "out_channels": head // 4,
        "vace_in_channels": vace_channels,
        "vace_layers": given.get("vace_layers") or list(range(0, layers, layers // vace_layers)),
        "patch_size": (1, 2, 2),
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
        "qk_norm": "rms_norm_across_heads",
        "eps": float(given.get("eps", 1e-6)),
    }


def _count(kind: str, shapes: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(kind + ".")})


def _vae(weights: Tensors, folder: Path) -> None:
    if "encoder.conv1.weight" not in weights:
        raise UsageError("the VAE's file does not hold Wan's VAE: no weight encoder.conv1.weight in it")
    base_dim = int(weights["encoder.conv1.weight"].shape[0])
    with torch.device("meta"):
        model = AutoencoderKLWan(base_dim=base_dim)
    found = convert_wan_vae_to_diffusers(weights)
    _save("VAE", model, found, folder, f"{_WEIGHTS}.safetensors")
    model.save_config(folder)


def _text_encoder(weights: Tensors, folder: Path) -> None:
    try:
        vocabulary, width = weights["token_embedding.weight"].shape
        buckets, heads = weights["blocks.0.pos_embedding.embedding.weight"].shape
        inner = weights["blocks.0.attn.q.weight"].shape[0]
        wide = weights["blocks.0.ffn.fc1.weight"].shape[0]
    except KeyError as error:
        raise UsageError(f"the text encoder's file does not hold Wan's UMT5: no weight {error} in it") from None
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=wide,
        num_layers=_count("blocks", weights),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
        architectures=["UMT5EncoderModel"],
    )
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    found = {_t5_name(name): tensor for name, tensor in weights.items()}
    _save("text encoder", model, found, folder, "model.safetensors", tied=("encoder.embed_tokens.weight",))
    config.save_pretrained(folder)


def _t5_name(name: str) -> str:
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        return f"encoder.block.{number}.{_T5_IN_BLOCKS.get(rest, rest)}"
    return {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}.get(name, name)


def _save(what: str, model: nn.Module, found: Tensors, folder: Path, file: str, *, tied: Collection[str] = ()) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    _check(what, wanted, {name: tuple(tensor.shape) for name, tensor in found.items()})
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / file, metadata={"format": "pt"})


def _check(what: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not known" for name in found.keys() - wanted.keys()]
    both = wanted.keys() & found.keys()
    wrong += [f"{name} has {found[name]}, not {wanted[name]}" for name in both if found[name] != wanted[name]]
    if wrong:
        raise UsageError(f"{what}: {len(wrong)} weights are wrong: {'; '.join(sorted(wrong)[:3])}")


def _write_config(folder: Path, config: Mapping[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _name_tokenizer(draft: Path) -> None:
    """Put the tokenizer's own class into the index."""
    index = json.loads((draft / "model_index.json").read_text())
    own = json.loads((draft / "tokenizer" / "tokenizer_config.json").read_text())
    index["tokenizer"] = ["transformers", own.get("tokenizer_class", "T5TokenizerFast")]
    (draft / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
