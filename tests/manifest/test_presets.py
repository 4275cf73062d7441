"""Test that a row wins over its preset, and the preset over the model."""

from __future__ import annotations

import pytest

from vace_batch.manifest.job import Job, Sampling
from vace_batch.manifest.presets import LORA_PRESETS, PRESETS, default_negative_prompt, with_preset
from vace_batch.options import PresetOption
from vace_batch.vace.profiles import VACE_1_3B, profile
from vace_batch.vcu.sampling import ResolvedSampling


def resolved(task: str, **fields: object) -> Job:
    return with_preset(Job(job_id="j", video_uri="v.mp4", task=task, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_leaves_nothing_open_but_what_the_model_says(name: str) -> None:
    job = resolved("restyle", preset=name)
    assert job.preset == name and job.negative_prompt is not None and job.seed_scope in ("window", "shot")
    assert job.sampling.mask_rule is not None and job.sampling.conditioning_scale == 1.0
    assert with_preset(job) == job
    profile("tiny").sampling(job.task, job.sampling)


def test_a_row_wins_over_its_preset_and_the_preset_over_the_model() -> None:
    job = resolved(
        "removal", preset="removal-lora", sampling=Sampling(flow_shift=4.0), negative_prompt="", seed_scope="shot"
    )
    sampling = profile(VACE_1_3B).sampling("removal", job.sampling)
    assert sampling == ResolvedSampling(
        num_inference_steps=20, guidance_scale=6.0, flow_shift=4.0, conditioning_scale=1.0, mask_rule="max4"
    )
    assert (job.negative_prompt, job.seed_scope) == ("", "shot")


def test_tasks_have_the_preset_that_fits_them() -> None:
    removal, restyle, plain = (resolved(task) for task in ("removal", "restyle", "inpainting"))
    assert (removal.preset, removal.negative_prompt, removal.sampling.mask_rule) == ("removal", "", "max4")
    assert (restyle.preset, restyle.seed_scope, restyle.sampling.mask_rule) == ("restyle", "shot", "nearest")
    assert (plain.preset, plain.seed_scope) == ("standard", "window")
    assert resolved("restyle", preset="fast").sampling.num_inference_steps == 4
    assert resolved("removal", preset="fast").prompt == resolved("removal", preset="fast").negative_prompt == ""
    with pytest.raises(ValueError, match="preset: expected one of standard, .*, got 'slow'"):
        resolved("removal", preset="slow")


def test_negative_prompts() -> None:
    assert default_negative_prompt("removal") == ""
    assert default_negative_prompt("restyle").startswith("色调艳丽，过曝")
    assert default_negative_prompt("inpainting").endswith("倒着走")


def test_values_of_the_run_win_over_the_preset_and_a_row_over_both() -> None:
    changes = (
        PresetOption(preset="removal", sampling={"flow_shift": 2.0, "num_inference_steps": 9}),
        PresetOption(preset="restyle", sampling={"flow_shift": 8.0}),
    )
    job = Job(job_id="j", video_uri="v.mp4", task="removal", sampling=Sampling(num_inference_steps=4))
    sampling = with_preset(job, changes).sampling
    assert (sampling.flow_shift, sampling.num_inference_steps, sampling.mask_rule) == (2.0, 4, "max4")


def test_presets_for_a_lora_are_presets() -> None:
    assert set(LORA_PRESETS) < set(PRESETS)
