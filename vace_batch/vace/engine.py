"""Generate frames from VCUs, in batches of equal shape and sampling."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from vace_batch import log
from vace_batch.errors import ClipError
from vace_batch.geometry import TEMPORAL_STRIDE
from vace_batch.options import EngineSettings
from vace_batch.vace.acceleration import CompiledShapes, offload, tune
from vace_batch.vace.context_parallel import Helpers, TokenSplit
from vace_batch.vace.encode import ConditionEncoder
from vace_batch.vace.lora_fusion import LoraSwitch, use_loras
from vace_batch.vace.model import VaceModel
from vace_batch.vace.prompts import PromptEncoder
from vace_batch.vace.sample import noise, sample
from vace_batch.vcu.unit import VCU, Pixels

_LOG = log.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """The result of the VCU at `index`: its frames, uint8 (T, H, W, 3) RGB, or its error.

    `seconds` is its share of the time that its batch took.
    """

    index: int
    frames: Pixels | None = None
    error: ClipError | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Generates windows of any shapes in one call; each result depends on its own VCU alone."""

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        """Yield each VCU's result as soon as it is finished, in any order.

        Errors: `not_finite` where the model's output is not finite, `out_of_memory` where a window does not fit alone,
        `lora_unusable` where its LoRA cannot be used.
        """
        ...


class VaceEngine:
    """The engine on a loaded model: VCUs of equal shape and sampling share a forward, up to `max_batch_tokens`.

    The default is the model's longest window: a batch then takes no more memory than that. With `deterministic` each
    window has a forward of its own, as kernels round by the size of the batch. Not for several threads.
    """

    def __init__(
        self,
        model: VaceModel,
        settings: EngineSettings | None = None,
        *,
        prompts: PromptEncoder | None = None,
        split: TokenSplit | None = None,
        helpers: Helpers | None = None,
    ) -> None:
        self.model = model
        self._split = split
        self._helpers = helpers
        settings = settings or EngineSettings()
        tune(model, settings)
        self.settings = settings
        self._may_offload = settings.offload == "none" and not settings.compile
        self._compiled = CompiledShapes(settings.compile)
        self._max_batch_tokens = settings.max_batch_tokens or model.profile.max_tokens
        self._conditions = ConditionEncoder(
            model.vae, model.device, settings.vae_pixels, settings.vae_latents, exact=settings.deterministic
        )
        self._prompts = prompts or PromptEncoder.of(model)
        self._loras = [LoraSwitch(expert) for expert in model.experts]

    def generate(self, vcus: Sequence[VCU]) -> list[Pixels]:
        """Generate the frames, uint8 (T, H, W, 3) RGB, of each VCU in order.

        Raises:
            ClipError: the model's output is not finite, a window does not fit into memory, or a LoRA cannot be used.
            UsageError: a prompt is not embedded and the model was loaded without a text encoder.
        """
        results: dict[int, Pixels] = {}
        for made in self.stream(vcus):
            if made.frames is None:
                raise made.error or RuntimeError("neither frames nor an error")
            results[made.index] = made.frames
        return [results[i] for i in range(len(vcus))]

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        """Yield each VCU's result as soon as its batch is finished.

        Raises:
            UsageError: a prompt is not embedded and the model was loaded without a text encoder.
        """
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, vcu in enumerate(vcus):
            groups[vcu.batch_key].append(index)
        for group in groups.values():
            while group:
                fitting = self._max_batch_tokens // vcus[group[0]].num_tokens
                size = 1 if self.settings.deterministic else max(1, fitting)
                yield from self._made(vcus, group[:size])
                group = group[size:]

    def _made(self, vcus: Sequence[VCU], indices: Sequence[int]) -> Iterator[Made]:
        """Generate one batch; if it does not fit or is not finite, repeat its windows in smaller batches."""
        batch = [vcus[i] for i in indices]
        began = time.monotonic()
        try:
            frames, broken = self._frames(batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            reason = str(error)  # the error itself would keep the batch's tensors alive
        except ClipError as error:  # a LoRA, which all windows of the batch have
            yield from (Made(index=index, error=error) for index in indices)
            return
        else:
            seconds = (time.monotonic() - began) / len(batch)
            for position, index in enumerate(indices):
                if position not in broken:
                    yield Made(index=index, frames=frames[position], seconds=seconds)
            del frames
            yield from self._repeated(vcus, [indices[position] for position in sorted(broken)], len(batch), seconds)
            return
        if self._helpers is not None:
            raise self._given_up(batch, reason)
        yield from self._smaller(vcus, indices, reason)

    def _repeated(self, vcus: Sequence[VCU], broken: Sequence[int], size: int, seconds: float) -> Iterator[Made]:
        """Repeat each window of a batch of `size` that is not finite alone; a window that was alone has failed."""
        for index in broken:
            if size == 1:
                yield Made(index=index, error=_not_finite(vcus[index]), seconds=seconds)
            else:
                yield from self._made(vcus, [index])

    @property
    def usable(self) -> bool:
        """False when helper processes are gone: the engine must be opened again, with its `settings`."""
        return self._helpers is None or self._helpers.usable

    def close(self) -> None:
        """End the helper processes, if the engine has any."""
        if self._helpers is not None:
            self._helpers.close()

    def _given_up(self, vcus: Sequence[VCU], reason: str) -> ClipError:
        """Choose settings for this engine's successor after out-of-memory with helpers; return the window's error."""
        retryable = len(vcus) > 1 or self._may_offload
        if len(vcus) > 1:
            self.settings = self.settings.model_copy(update={"max_batch_tokens": vcus[0].num_tokens})
        elif retryable:
            self.settings = self.settings.model_copy(update={"offload": "group"})
        _LOG.warning("out of memory with %d windows of %s: the model is loaded again", len(vcus), vcus[0].shape_key)
        return _out_of_memory(vcus[0], self.settings, reason, retryable=retryable)

    def _smaller(self, vcus: Sequence[VCU], indices: Sequence[int], reason: str) -> Iterator[Made]:
        """Retry after out-of-memory: halve the batch for good, then offload blocks, then yield the window's error."""
        self.model.vae.clear_cache()
        _free_memory()
        first = vcus[indices[0]]
        if len(indices) > 1:
            half = (len(indices) + 1) // 2
            self._max_batch_tokens = half * first.num_tokens
            _LOG.warning("out of memory with %d windows of %s: from now on %d", len(indices), first.shape_key, half)
            for start in range(0, len(indices), half):
                yield from self._made(vcus, indices[start : start + half])
        elif self._may_offload:
            self._may_offload = False
            _LOG.warning("out of memory with one window of %s: the blocks are offloaded from now on", first.shape_key)
            offload(self.model)
            yield from self._made(vcus, indices)
        else:
            yield Made(index=indices[0], error=_out_of_memory(first, self.settings, reason))

    def _frames(self, batch: Sequence[VCU]) -> tuple[list[Pixels], set[int]]:
        """Generate a batch; return its frames and the positions of windows whose latents are not finite."""
        latents = self.denoise(batch)
        finite = torch.isfinite(latents).flatten(1).all(dim=1).tolist()
        with torch.inference_mode():
            frames_BTHWC = self._conditions.decode(latents[:, :, len(batch[0].references) :])
        return list(frames_BTHWC.numpy()), {position for position, good in enumerate(finite) if not good}

    def denoise(self, vcus: Sequence[VCU]) -> torch.Tensor:
        """Denoise VCUs of one batch key into latents, float32 (B, 16, references + t, h, w), not decoded.

        Raises:
            ClipError: one of their LoRAs cannot be used.
            ValueError: the VCUs differ in shape or sampling.
        """
        keys = sorted({vcu.batch_key for vcu in vcus})
        if len(keys) != 1:
            raise ValueError(f"a batch: expected VCUs of one shape and sampling, got {keys}")
        with torch.inference_mode(), self._helpers.beside(vcus) if self._helpers else contextlib.nullcontext():
            return self._denoised(vcus)

    def _denoised(self, vcus: Sequence[VCU]) -> torch.Tensor:
        use_loras(self._loras, vcus[0].sampling.loras)
        if self._split is not None:
            if vcus[0].sampling.step_cache:
                raise ClipError("unsupported", "sampling.step_cache: expected 0 with engine.devices above 1")
            self._split.use(vcus[0].num_tokens)
        channels = self.model.transformer.config.in_channels
        conditional, unconditional = self._prompts(
            [vcu.prompt for vcu in vcus] + [vcu.negative_prompt or "" for vcu in vcus]
        ).chunk(2)
        with self._compiled.of(f"{len(vcus)}x{vcus[0].shape_key}"):
            return sample(
                self.model,
                torch.stack([noise(vcu, channels) for vcu in vcus]).to(self.model.device),
                self._conditions.control(vcus),
                conditional,
                unconditional,
                vcus[0].sampling,
            )


def _not_finite(vcu: VCU) -> ClipError:
    return ClipError(
        "not_finite", f"the model's output is not finite for {vcu.window_id}; try another dtype or another seed"
    )


def _out_of_memory(vcu: VCU, settings: EngineSettings, reason: str, *, retryable: bool = False) -> ClipError:
    """Make the error of a window that does not fit, with the settings that may still be changed."""
    size = f"{vcu.size.width}x{vcu.size.height}x{vcu.num_frames}"
    frames = max(1, vcu.num_frames // 2 // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1
    ways = [
        f"sampling.max_tokens={vcu.num_tokens // 2} in its row (its crop is shrunk)",
        f"sampling.max_frames={frames} in its row (shorter windows)",
        *(["fewer references"] if vcu.references else []),
        *(["--engine compile=false (blocks can wait in host memory then)"] if settings.compile else []),
        *(["--engine storage=fp8 (half the weights' memory)"] if settings.storage == "full" else []),
        f"--engine devices={2 * settings.devices} on a machine that has them",
    ]
    return ClipError(
        "out_of_memory",
        f"a window of {size} ({vcu.num_tokens:,} tokens) does not fit into this device's memory, even alone; "
        f"try {', '.join(ways)}, or a smaller model ({reason.splitlines()[0] if reason else 'no details'})",
        retryable=retryable,
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
