"""Embed prompts at 512 tokens, as the stock pipeline does; each text is encoded once a run, not once an actor.

UMT5-XXL takes 11 GB. It is loaded for texts that are neither remembered nor stored, before the transformer where they
are known by then, and dropped again; an actor that finds all of them stored never loads it.

Axes: L = 512 tokens, D channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import load, save

from vace_batch.errors import UsageError
from vace_batch.storage import files as storage
from vace_batch.vace.model import VaceModel
from vace_batch.vace.profiles import TEXT_TOKENS

_CACHED_PROMPTS = 64

OpenText = Callable[[], tuple[Any, Any]]
"""A function that loads the tokenizer and the text encoder."""


class PromptStore:
    """Prompt embeddings in a folder or prefix, shared by all actors and later runs.

    `identity` is what decides an embedding beside its text: the model's revision and the dtype.
    """

    def __init__(self, uri: str, identity: str) -> None:
        self._uri = uri
        self._identity = identity

    def get(self, text: str) -> torch.Tensor | None:
        """Return the embedding (tokens, D) of a text, without padding; None if it is not stored."""
        try:
            data = storage.read_bytes(self._place(text))
        except FileNotFoundError:
            return None
        return load(data)["embedding"]

    def put(self, text: str, embedding: torch.Tensor) -> None:
        storage.publish(self._place(text), save({"embedding": embedding.cpu().contiguous()}))

    def _place(self, text: str) -> str:
        name = storage.digest(self._identity, str(TEXT_TOKENS), text)
        return storage.join(self._uri, name[:2], f"{name}.safetensors")


class PromptEncoder:
    """Embeds prompts by memory, store or text encoder; with `keep`, a loaded text encoder stays loaded."""

    def __init__(
        self,
        open_text: OpenText,
        device: torch.device,
        dtype: torch.dtype,
        *,
        store: PromptStore | None = None,
        keep: bool = False,
    ) -> None:
        self._open_text = open_text
        self._device = device
        self._dtype = dtype
        self._store = store
        self._keep = keep
        self._text: tuple[Any, Any] | None = None
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def of(cls, model: VaceModel) -> PromptEncoder:
        """Make a prompt encoder on the text encoder of a loaded model."""

        def open_text() -> tuple[Any, Any]:
            if model.text_encoder is None:
                raise UsageError(
                    f"model {model.ref}: loaded without its text encoder, but a prompt is not embedded yet"
                )
            return model.tokenizer, model.text_encoder

        return cls(open_text, model.device, model.dtype)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed `texts`: (B, 512, D), rows after a text's last token zero.

        Raises:
            UsageError: a text is not known and there is no text encoder to be had.
        """
        embeddings = self._embeddings(texts)
        return torch.stack([_padded(embeddings[text].to(self._device)) for text in texts])

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode and store each of `texts` that is not stored yet.

        Raises:
            UsageError: there is no text encoder to be had.
        """
        self._embeddings(texts)

    def _embeddings(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the embedding (tokens, D) of each text: remembered, stored, or encoded now."""
        embeddings = {text: known for text in dict.fromkeys(texts) if (known := self._find(text)) is not None}
        embeddings |= self._encode([text for text in dict.fromkeys(texts) if text not in embeddings])
        for text, embedding in embeddings.items():
            self._remember(text, embedding)
        return embeddings

    def _find(self, text: str) -> torch.Tensor | None:
        known = self._known.get(text)
        return self._store.get(text) if known is None and self._store is not None else known

    def _remember(self, text: str, embedding: torch.Tensor) -> None:
        self._known[text] = embedding
        self._known.move_to_end(text)
        while len(self._known) > _CACHED_PROMPTS:
            self._known.popitem(last=False)

    def _encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        if not texts:
            return {}
        tokenizer, encoder = self._text or self._open_text()
        encoded = {text: _embed(tokenizer, encoder, text).to(self._dtype) for text in texts}
        self._text = (tokenizer, encoder) if self._keep else None
        if self._store is not None:
            for text, embedding in encoded.items():
                self._store.put(text, embedding)
        return encoded


def _embed(tokenizer: Any, encoder: Any, text: str) -> torch.Tensor:
    """Encode one text into its embedding (tokens, D)."""
    # here for start-up time: the pipelines are not needed where all prompts are stored
    from diffusers.pipelines.wan.pipeline_wan_vace import prompt_clean

    tokens = tokenizer(
        [prompt_clean(text)],
        padding="max_length",
        max_length=TEXT_TOKENS,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    ).to(encoder.device)
    with torch.inference_mode():
        embedding: torch.Tensor = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
    return embedding[: int(tokens.attention_mask.sum())].clone()


def _padded(embedding_LD: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(embedding_LD, (0, 0, 0, TEXT_TOKENS - len(embedding_LD)))
