"""Presets: named bundles of LoRAs, sampling settings and prompts that a row may ask for."""

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
"""The fixed list of Wan's command line; diffusers passes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named values for a kind of job; what a job says itself wins over them, the model profile fills what they leave.

    `negative_prompt` empty and an empty prompt are equal embeddings, so that each step is one forward instead of two.
    """

    sampling: Sampling
    negative_prompt: str = WAN_NEGATIVE_PROMPT
    seed_scope: SeedScope = "window"


PRESETS: dict[PresetName, Preset] = {
    "standard": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0)),
    # With the stock rule a fast object is partly uncovered in the mask channels.
    "removal": Preset(sampling=Sampling(mask_rule="max4", conditioning_scale=1.0), negative_prompt=""),
    # With removal LoRAs: SVOR's published values.
    "removal-lora": Preset(
        sampling=Sampling(
            num_inference_steps=20, guidance_scale=6.0, flow_shift=5.0, conditioning_scale=1.0, mask_rule="max4"
        )
    ),
    "restyle": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0), seed_scope="shot"),
    "reference": Preset(sampling=Sampling(mask_rule="nearest", conditioning_scale=1.0), seed_scope="shot"),
    # With a few-step LoRA: these are distilled with guidance inside.
    "fast": Preset(
        sampling=Sampling(
            num_inference_steps=4, guidance_scale=1.0, flow_shift=5.0, conditioning_scale=1.0, mask_rule="max4"
        ),
        negative_prompt="",
    ),
}

LORA_PRESETS = ("removal-lora", "fast")
"""Presets whose values are for a LoRA, which the run gives (`--lora removal-lora:FILE`) or the weights have in them."""

_PRESET_OF_TASK: dict[Task, PresetName] = {
    "removal": "removal",
    "restyle": "restyle",
    "r2v": "reference",
    "composition": "reference",
}


def preset_name(task: Task, name: PresetName | None = None) -> PresetName:
    """The preset a job gets: the one it names, else its task's.

    Raises:
        ValueError: there is none of that name.
    """
    chosen = name or _PRESET_OF_TASK.get(task, "standard")
    if chosen not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {chosen!r}")
    return chosen


def with_preset(job: Job, changes: Iterable[PresetOption] = ()) -> Job:
    """The job with its preset's name and every value of it that the job leaves open, so that nothing is implied.

    `changes` are the run's values for presets.

    Raises:
        ValueError: there is no such preset.
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
    """The negative prompt of a job that gives none: its task's preset's."""
    return PRESETS[preset_name(task)].negative_prompt
