"""Encode class names for YOLOE and YOLO-World by the text encoder beside the detector's weights.

Nothing is downloaded, and every package needed is on the wheel index: CLIP's tokens come from its `tokenizer.json`, the
encoders run in torch. Shapes: N names, T tokens of a name, C the length of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vace_batch.errors import ClipError
from vace_batch.masks.detectors.detection import one_line

if TYPE_CHECKING:
    from torch import Tensor

ENCODERS = {
    "clip:ViT-B/32": "ViT-B-32.pt",
    "mobileclip:blt": "mobileclip_blt.ts",
    "mobileclip2:b": "mobileclip2_b.ts",
}
"""File names of the text encoders, by the names that ultralytics gives them."""

TOKENIZER = "tokenizer.json"
"""CLIP's tokenizer, as in `openai/clip-vit-base-patch32` on the Hugging Face hub."""

_MOST_TOKENS = 77
_HEADS = 8
_LAYER_NAMES = {
    "attn.": "self_attn.", "mlp.c_fc.": "linear1.", "mlp.c_proj.": "linear2.", "ln_1.": "norm1.", "ln_2.": "norm2.",
}  # fmt: skip


def text_features(names: Sequence[str], kind: str, files: Sequence[str]) -> Any:
    """Encode `names` as unit vectors, a float32 tensor (1, N, C), for weights trained with the encoder `kind`.

    `files` are the paths that may be opened; the encoder's file in `ENCODERS` and `TOKENIZER` must be among them.

    Raises:
        ClipError: `no_text_encoder`, a file is missing or cannot be read.
    """
    import torch

    paths = {Path(file).name: file for file in files}
    encoder = ENCODERS.get(kind)
    missing = [file for file in (encoder, TOKENIZER) if file not in paths]
    if encoder is None or missing:
        wanted = f"encoder {kind!r} is not known" if encoder is None else f"expected {' and '.join(map(str, missing))}"
        raise ClipError(
            "no_text_encoder", f"targets: weights with an open vocabulary need their text encoder: {wanted}"
        )
    try:
        tokens = tokens_of(names, paths[TOKENIZER])
        with torch.no_grad():
            network = torch.jit.load(paths[encoder], map_location="cpu")
            vectors = _clip_text(network.state_dict(), tokens) if encoder.endswith(".pt") else network(tokens)
            return torch.nn.functional.normalize(vectors.float(), dim=-1)[None]
    except (AttributeError, KeyError, OSError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise ClipError("no_text_encoder", f"targets: {encoder}, {TOKENIZER}: {one_line(error)}") from error


def tokens_of(names: Sequence[str], tokenizer: str) -> Any:
    """Return CLIP's tokens of `names`, an int tensor (N, T) padded with 0; longer names are cut.

    Raises:
        ValueError: the file is not a tokenizer.
    """
    import torch
    from tokenizers import Tokenizer

    try:
        encoder = Tokenizer.from_file(tokenizer)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(one_line(error)) from error
    encoder.no_padding()
    encoder.enable_truncation(_MOST_TOKENS)
    tokens = torch.zeros((len(names), _MOST_TOKENS), dtype=torch.int32)
    for row, name in zip(tokens, names, strict=True):
        ids = encoder.encode(name).ids
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def _clip_text(state: Mapping[str, Tensor], tokens_NT: Tensor) -> Tensor:
    """Run CLIP's text tower, as in openai/CLIP's model.py, in float32 whatever the stored type."""
    import torch

    weights = {name: tensor.float() for name, tensor in state.items() if not name.startswith("visual.")}
    hidden_NTC = weights["token_embedding.weight"][tokens_NT.long()] + weights["positional_embedding"]
    width = hidden_NTC.shape[-1]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(hidden_NTC.shape[1])
    for number in range(len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")})):
        layer = torch.nn.TransformerEncoderLayer(
            width, _HEADS, 4 * width, 0.0, lambda x: x * torch.sigmoid(1.702 * x), batch_first=True, norm_first=True
        ).eval()
        layer.load_state_dict(_renamed(weights, f"transformer.resblocks.{number}."))
        hidden_NTC = layer(hidden_NTC, src_mask=mask)
    hidden_NTC = torch.nn.functional.layer_norm(
        hidden_NTC, (width,), weights["ln_final.weight"], weights["ln_final.bias"]
    )
    last = tokens_NT.argmax(dim=-1)  # the end of the text has the highest number
    return hidden_NTC[torch.arange(len(last)), last] @ weights["text_projection"]


def _renamed(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights of one layer of CLIP under torch's names."""
    layer = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            inner = name.removeprefix(prefix)
            old = next(old for old in _LAYER_NAMES if inner.startswith(old))
            layer[_LAYER_NAMES[old] + inner.removeprefix(old)] = tensor
    return layer
