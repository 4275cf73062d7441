"""Presets: named values of sampling, negative prompt and seed scope that a row may ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vace_batch.manifest.choices import PresetName, SeedScope, Task
from vace_batch.manifest.job import Job, Sampling, members
from vace_batch.options import PresetOption

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""The negative prompt of Wan's command line; diffusers has no default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named values for a kind of job: the job's own values win over the preset, the preset over the model profile.

    An empty `negative_prompt` and an empty prompt have equal embeddings, so that each step needs one forward, not two.
    """

    sampling: Sampling
    negative_prompt: str = WAN_NEGATIVE_PROMPT
    seed_scope: SeedScope = "window"


PRESETS: dict[PresetName, Preset] = {
    "standard": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0)),
    # With the stock rule a fast object is partly uncovered in the mask channels.
    "removal": Preset(sampling=Sampling(mask_rule="max4", conditioning_scale=1.0), negative_prompt=""),
    # For removal LoRAs: SVOR's published values.
    "removal-lora": Preset(
        sampling=Sampling(
            num_inference_steps=20, guidance_scale=6.0, flow_shift=5.0, conditioning_scale=1.0, mask_rule="max4"
        )
    ),
    "restyle": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0), seed_scope="shot"),
    "reference": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0), seed_scope="shot"),
    # For few-step LoRAs, which are distilled with guidance inside.
    "fast": Preset(
        sampling=Sampling(
            num_inference_steps=4, guidance_scale=1.0, flow_shift=5.0, conditioning_scale=1.0, mask_rule="max4"
        ),
        negative_prompt="",
    ),
}

LORA_PRESETS = ("removal-lora", "fast")
"""Presets whose values need a LoRA, given to the run (`--lora removal-lora:FILE`) or already in the weights."""

_PRESET_OF_TASK: dict[Task, PresetName] = {
    "removal": "removal",
    "restyle": "restyle",
    "r2v": "reference",
    "composition": "reference",
}


def preset_name(task: Task, name: PresetName | None = None) -> PresetName:
    """Return the name of a job's preset: the named preset, else the task's.

    Raises:
        ValueError: no preset has that name.
    """
    chosen = name or _PRESET_OF_TASK.get(task, "standard")
    if chosen not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {chosen!r}")
    return chosen


def with_preset(job: Job, changes: Iterable[PresetOption] = ()) -> Job:
    """Fill every value that a job leaves open from its preset, and name the preset in the job.

    `changes` are the run's values for presets; they win over the preset's own.

    Raises:
        ValueError: no preset has that name.
    """
    name = preset_name(job.task, job.preset)
    preset, own = PRESETS[name], members(job.sampling)
    merged = members(preset.sampling)
    for change in changes:
        merged |= change.sampling if change.preset == name else {}
    merged |= {field: value for field, value in own.items() if value is not None}
    return replace(
        job,
        preset=name,
        sampling=Sampling(**merged),
        negative_prompt=preset.negative_prompt if job.negative_prompt is None else job.negative_prompt,
        seed_scope=job.seed_scope or preset.seed_scope,
    )


def default_negative_prompt(task: Task) -> str:
    """Return the negative prompt of the task's preset."""
    return PRESETS[preset_name(task)].negative_prompt
