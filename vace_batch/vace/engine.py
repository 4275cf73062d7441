"""VCUs in, generated frames out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from vace_batch.errors import ClipError
from vace_batch.vace.encode import ConditionEncoder, PromptEncoder
from vace_batch.vace.lora import LoraSwitch
from vace_batch.vace.model import VaceModel
from vace_batch.vace.sample import noise, sample
from vace_batch.vcu import VCU, Pixels

_VAE_PIXELS = 1280 * 720
"""Pixels of one frame of all windows that go through the VAE at once; its memory grows with them, not with time."""


class Engine(Protocol):
    """Generates windows. Windows of any shapes may come together; each result depends on its own VCU alone."""

    def generate(self, vcus: Sequence[VCU]) -> list[Pixels]:
        """Frames, uint8 (T, H, W, 3) RGB, of each VCU in order.

        Raises:
            ClipError: the model's output is not finite.
        """
        ...


class VaceEngine:
    """The real engine: VCUs of equal shape and sampling share a forward, as many as `max_batch_tokens` allow.

    The default is the model's longest window: a batch then takes no more memory than that. Not for several threads.
    """

    def __init__(self, model: VaceModel, *, max_batch_tokens: int | None = None, vae_pixels: int = _VAE_PIXELS) -> None:
        self.model = model
        self._max_batch_tokens = max_batch_tokens or model.profile.max_tokens
        self._conditions = ConditionEncoder(model.vae, model.device, vae_pixels)
        self._prompts = PromptEncoder(model)
        self._loras = LoraSwitch(model.transformer)

    def generate(self, vcus: Sequence[VCU]) -> list[Pixels]:
        """Frames, uint8 (T, H, W, 3) RGB, of each VCU in order.

        Raises:
            ClipError: the model's output is not finite, or a LoRA cannot be used.
            UsageError: a prompt is not embedded and the model was loaded without a text encoder.
        """
        results: dict[int, Pixels] = {}
        for indices in self._batches(vcus):
            batch = [vcus[i] for i in indices]
            latents = self.denoise(batch)
            _check_finite(batch, latents)
            with torch.inference_mode():
                frames_BTHWC = self._conditions.decode(latents[:, :, len(batch[0].references) :])
            results.update(zip(indices, frames_BTHWC.numpy(), strict=True))
        return [results[i] for i in range(len(vcus))]

    def denoise(self, vcus: Sequence[VCU]) -> torch.Tensor:
        """Latents before decoding, float32 (B, 16, references + t, h, w), of VCUs of one batch key.

        Raises:
            ClipError: one of their LoRAs cannot be used.
            ValueError: the VCUs differ in shape or sampling.
        """
        keys = sorted({vcu.batch_key for vcu in vcus})
        if len(keys) != 1:
            raise ValueError(f"a batch: expected VCUs of one shape and sampling, got {keys}")
        self._loras.use(vcus[0].sampling.loras)
        channels = self.model.transformer.config.in_channels
        with torch.inference_mode():
            return sample(
                self.model,
                torch.stack([noise(vcu, channels) for vcu in vcus]).to(self.model.device),
                self._conditions.control(vcus),
                torch.stack([self._prompts(vcu.prompt) for vcu in vcus]),
                torch.stack([self._prompts(vcu.negative_prompt or "") for vcu in vcus]),
                vcus[0].sampling,
            )

    def _batches(self, vcus: Sequence[VCU]) -> Iterator[list[int]]:
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, vcu in enumerate(vcus):
            groups[vcu.batch_key].append(index)
        for group in groups.values():
            size = max(1, self._max_batch_tokens // vcus[group[0]].num_tokens)
            for start in range(0, len(group), size):
                yield group[start : start + size]


def _check_finite(vcus: Sequence[VCU], latents: torch.Tensor) -> None:
    finite = torch.isfinite(latents).flatten(1).all(dim=1).tolist()
    broken = [vcu.window_id for vcu, good in zip(vcus, finite, strict=True) if not good]
    if broken:
        raise ClipError(
            "not_finite", f"the model's output is not finite for {', '.join(broken)}; try another dtype or seed"
        )
