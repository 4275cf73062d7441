"""Train a text encoder for a small vocabulary: each byte of a prompt learns the style that the whole prompt names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import UMT5EncoderModel

from vace_batch.vace.training.styles import STYLES, prompt_of

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NEGATIVES = 0.25
_MOST_WORDS = 4


def train_text_encoder(
    encoder: UMT5EncoderModel, tokenizer: Any, *, steps: int, generator: np.random.Generator, batch: int = 32
) -> float:
    """Train `encoder` in place; return its accuracy in telling styles over the last tenth of the prompts.

    Prompts without a style word are a class of their own.
    """
    names = [None, *STYLES]
    head = nn.Linear(encoder.config.d_model, len(names))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    right = total = 0
    encoder.train()
    for step in range(steps):
        drawn = generator.integers(len(names), size=batch)
        drawn[generator.random(batch) < _NEGATIVES] = 0
        prompts = [_prompt(names[index], generator) for index in drawn]
        tokens = tokenizer(prompts, padding=True, return_tensors="pt")
        features = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        scores = head(features)
        wanted = torch.from_numpy(drawn)[:, None].expand(scores.shape[:2]).masked_fill(tokens.attention_mask == 0, -100)
        loss = functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step >= steps * 0.9:
            pooled = scores.masked_fill(tokens.attention_mask[..., None] == 0, 0).sum(1).argmax(-1)
            right, total = right + int((pooled == torch.from_numpy(drawn)).sum()), total + batch
    encoder.eval()
    return right / total


def _prompt(style: str | None, generator: np.random.Generator) -> str:
    if style is not None or generator.random() < 0.4:
        return prompt_of(style, generator)
    words = ["".join(generator.choice(list(_LETTERS), generator.integers(1, 9))) for _ in range(_MOST_WORDS)]
    return " ".join(words[: generator.integers(1, _MOST_WORDS + 1)])


@torch.no_grad()  # type: ignore[untyped-decorator]
def embed(encoder: UMT5EncoderModel, tokenizer: Any, prompts: list[str], rows: int) -> Tensor:
    """Embed prompts as (B, rows + 1, D): each prompt's tokens, then zero rows; the last row stands for all padding.

    Raises:
        ValueError: a prompt has more than `rows` tokens.
    """
    tokens = tokenizer(prompts, padding="max_length", max_length=rows, return_tensors="pt")
    if tokens.input_ids.shape[1] != rows:
        raise ValueError(f"prompts: expected at most {rows} tokens, got {tokens.input_ids.shape[1]}")
    features: Tensor = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    features = features * tokens.attention_mask[..., None]
    return functional.pad(features, (0, 0, 0, 1))
