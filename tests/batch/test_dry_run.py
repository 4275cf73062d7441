"""Test that the dry run reports each sampling value once for all jobs that share it."""

from __future__ import annotations

from typing import Any

from vace_batch.batch.dry_run import ClipEstimate, Estimate


def clip(preset: str, *loras: dict[str, Any], **more: Any) -> ClipEstimate:
    sampling = {"num_inference_steps": 20, "flow_shift": 5.0, "loras": list(loras)}
    settings = {"model": "tiny", "preset": preset, "negative_prompt": "x" * 30, "sampling": sampling, **more}
    return ClipEstimate(job_id="j", state="todo", settings=settings)


def test_every_value_is_said_once_for_the_jobs_that_share_it() -> None:
    lora = {"uri": "s3://w/removal.safetensors", "revision": "0123456789abcdef", "weight": 0.5}
    failed = ClipEstimate(job_id="f", state="failed")
    clips = (clip("removal"), clip("removal"), clip("removal-lora", lora), clip("fast"), failed)
    common = f"model='tiny', negative_prompt='{'x' * 23}…', num_inference_steps=20, flow_shift=5.0"
    lines = list(Estimate(clips=clips).settings_lines())
    assert lines == [
        f"removal, 2 jobs: {common}, loras=none",
        f"removal-lora, 1 jobs: {common}, loras=s3://w/removal.safetensors@0123456789ab=0.5",
        f"fast, 1 jobs: {common}, loras=none (no LoRA given: correct only if the weights include one)",
    ]
