"""Translate weight names of diffusers' WanVACETransformer3DModel into the names of Wan's own code."""

from __future__ import annotations

import re

_EMBEDDER = "condition_embedder."
_EMBEDDERS = {
    "time_embedder.linear_1": "time_embedding.0",
    "time_embedder.linear_2": "time_embedding.2",
    "text_embedder.linear_1": "text_embedding.0",
    "text_embedder.linear_2": "text_embedding.2",
    "time_proj": "time_projection.1",
}
_IN_BLOCKS = (
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    ("add_k_proj.", "k_img."),
    ("add_v_proj.", "v_img."),
    ("norm_added_k.", "norm_k_img."),
    ("to_out.0.", "o."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("ffn.net.0.proj.", "ffn.0."),
    ("ffn.net.2.", "ffn.2."),
    ("proj_in.", "before_proj."),
    ("proj_out.", "after_proj."),
)
# The norm with weights is the second of diffusers' and the third of Wan's.
_NORMS = {"norm2.": "norm3.", "norm3.": "norm2."}


def original_name(name: str) -> str:
    """Return the name of the transformer's parameter `name` in Wan's own checkpoints."""
    block = re.fullmatch(r"((?:vace_)?blocks\.\d+\.)(.+)", name)
    if block is None:
        return _outside_blocks(name)
    place, rest = block.groups()
    if rest == "scale_shift_table":
        return place + "modulation"
    for ours, theirs in _NORMS.items():
        if rest.startswith(ours):
            return place + theirs + rest.removeprefix(ours)
    for ours, theirs in _IN_BLOCKS:
        rest = rest.replace(ours, theirs)
    return place + rest


def _outside_blocks(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    if name.startswith("proj_out."):
        return "head.head." + name.removeprefix("proj_out.")
    inner = name.removeprefix(_EMBEDDER)
    for ours, theirs in _EMBEDDERS.items():
        if inner.startswith(ours + "."):
            return theirs + inner.removeprefix(ours)
    return name
