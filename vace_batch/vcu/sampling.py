"""The sampling settings and LoRAs of a window, with every default filled in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vace_batch.manifest.choices import MASK_RULES, MaskRule
from vace_batch.options import LoraExpert


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA to fuse into the model: its file, the revision of the file's content, its weight and its expert.

    `expert` names one of the two experts of Wan 2.2 (high, low), or both.
    """

    uri: str
    revision: str
    weight: float
    expert: LoraExpert = "both"

    @property
    def identity(self) -> tuple[str, float, str]:
        """The fields that decide pixels; the file's place does not."""
        return self.revision, self.weight, self.expert


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSampling:
    """Every setting that decides how noise becomes latents, without defaults left to fill in.

    `mask_rule` says how a mask is shrunk in time: "nearest" (stock) or "max4" (frame 0, then the maximum of each four).
    Two save time and change the result. `guidance_from` and `guidance_until` are shares of the steps: guidance acts
    from the one up to the other, and each step outside takes one forward instead of two. `step_cache` is the relative
    change of the first block's output up to which a step takes over what the other blocks, the context branch
    included, added at the last step that ran them; 0 is off.

    Of a model with two experts (Wan 2.2) the second works below `boundary_ratio`, a noise level of 0..1, with
    `guidance_scale_2`; both are None for a model of one transformer.
    """

    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    guidance_scale_2: float | None = None
    boundary_ratio: float | None = None
    conditioning_scale: float = 1.0
    mask_rule: MaskRule = "nearest"
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    step_cache: float = 0.0
    loras: tuple[Lora, ...] = ()

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected at least 1, got {self.num_inference_steps}")
        if self.flow_shift <= 0:
            raise ValueError(f"flow_shift: expected more than 0, got {self.flow_shift}")
        if not 0 <= (self.boundary_ratio or 0) <= 1:
            raise ValueError(f"boundary_ratio: expected 0..1, got {self.boundary_ratio}")
        if self.mask_rule not in MASK_RULES:
            raise ValueError(f"mask_rule: expected one of {', '.join(MASK_RULES)}, got {self.mask_rule!r}")
        if not 0 <= self.guidance_from <= self.guidance_until <= 1:
            got = f"{self.guidance_from} and {self.guidance_until}"
            raise ValueError(f"guidance_from, guidance_until: expected 0 <= from <= until <= 1, got {got}")
        if not 0 <= self.step_cache < 1:
            raise ValueError(f"step_cache: expected 0 (off) up to, not including, 1, got {self.step_cache}")

    @property
    def guidance_interval(self) -> range:
        """Steps, from 0, at which guidance may act."""
        first = round(self.guidance_from * self.num_inference_steps)
        stop = round(self.guidance_until * self.num_inference_steps)
        return range(first, stop)

    @property
    def guided_steps(self) -> tuple[int, ...]:
        """Steps at which guidance acts; steps of an expert whose scale is 1 or less are left out."""
        return tuple(step for step in self.guidance_interval if self._guidance_at(step) > 1)

    def _guidance_at(self, step: int) -> float:
        """Return the guidance scale of the expert at work at `step`, whose noise level follows Wan's flow schedule."""
        if self.guidance_scale_2 is None or self.boundary_ratio is None:
            return self.guidance_scale
        level = 1 - step / self.num_inference_steps * 0.999
        level = self.flow_shift * level / (1 + (self.flow_shift - 1) * level)
        return self.guidance_scale if level >= self.boundary_ratio else self.guidance_scale_2

    @property
    def identity(self) -> dict[str, Any]:
        """Return the fields for identity digests, with LoRAs by content and weight."""
        return asdict(self) | {"loras": [lora.identity for lora in self.loras]}
