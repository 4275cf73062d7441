"""Predict the cost of a clip from its plan: frames, pixels, tokens and FLOP, times measured rates.

Keys are the dispatcher's steps, with `prepare` split into masks and background; `stitch` includes encoding. Excluded:
further attempts, repeated runs, kept masks, records.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from vace_batch.costs import Calibration, Used, total
from vace_batch.manifest.job import Job
from vace_batch.manifest.presets import default_negative_prompt
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.vace.profiles import ModelProfile, profile

STEPS = ("masks", "background", "build", "generate", "stitch", "measure")


def predict(work: ClipWork, plan: ClipPlan, windows: Iterable[PlannedWindow] | None = None) -> dict[str, Used]:
    """Predict a clip's costs by step; only `windows` of its windows count, all by default."""
    return {
        **_prepared(work, plan),
        **windows_cost(work, plan, plan.windows if windows is None else windows),
        **finish_cost(work, plan),
    }


def prepare_cost(work: ClipWork, plan: ClipPlan) -> Used:
    """Predict masks and background together, which one step makes."""
    return total(_prepared(work, plan).values())


def _prepared(work: ClipWork, plan: ClipPlan) -> dict[str, Used]:
    """Predict decoding, cuts and masks, then the recovered background, each with its files."""
    rates = work.options.calibration.cpu
    sizes = work.options.calibration.bytes
    mpx = _mpx(plan)
    masked_mpx = plan.masked_frames * mpx
    background = Used()
    seconds = rates.scan.seconds(plan.num_frames, mpx)
    if work.job.needs_pixels:
        seconds += rates.look.seconds(plan.num_frames, mpx)
    if _recovers(work.job):
        spent = rates.background.seconds(plan.masked_frames, mpx)
        background = Used(cpu_s=spent, num_bytes=masked_mpx * sizes.background)
    return {"masks": Used(cpu_s=seconds, num_bytes=masked_mpx * sizes.masks), "background": background}


def windows_cost(work: ClipWork, plan: ClipPlan, windows: Iterable[PlannedWindow]) -> dict[str, Used]:
    """Predict building and generating windows."""
    build = Used()
    generate = Used()
    for planned in windows:
        build += build_cost(work, plan, planned)
        generate += window_cost(work, plan, planned)
    return {"build": build, "generate": generate}


def build_cost(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> Used:
    """Predict decoding a window's frames again, and cropping and resizing them."""
    frames = planned.window.stop - planned.window.start
    return Used(cpu_s=work.options.calibration.cpu.build.seconds(frames, _mpx(plan)))


def window_cost(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> Used:
    """Predict a window's device seconds, and the bytes of its generated frames."""
    calibration: Calibration = work.options.calibration
    size = plan.region_of(planned).size
    frames = planned.window.num_frames
    profile = _profile(work.model, work.revision)
    transformer = profile.transformer_flop(
        frames,
        size,
        work.sampling,
        num_references=len(work.job.reference_uris),
        guided=work.job.prompt != _negative(work),
    )
    vae = profile.vae_flop(frames, size, encodes=2 if work.job.controls and work.job.has_mask_source else 1)
    return Used(
        gpu_s=calibration.speed(work.model).seconds(transformer, vae) * work.options.engine.devices,
        num_bytes=frames * size.width * size.height / 1e6 * calibration.bytes.window,
    )


def finish_cost(work: ClipWork, plan: ClipPlan) -> dict[str, Used]:
    """Predict stitching with encoding, and measuring the result."""
    rates = work.options.calibration.cpu
    mpx = _mpx(plan)
    measured = rates.quality.seconds(plan.masked_frames, mpx) if work.options.quality.enabled else 0.0
    return {
        "stitch": Used(
            cpu_s=rates.stitch.seconds(plan.masked_frames, mpx),
            num_bytes=plan.source_bytes * work.options.calibration.bytes.video,
        ),
        "measure": Used(cpu_s=measured),
    }


def may_shrink(job: Job) -> bool:
    """Return whether masks or recovered background may leave less for the GPU than the job's own boxes say."""
    return job.needs_pixels or _recovers(job)


def _recovers(job: Job) -> bool:
    return job.task == "removal" and job.background == "auto"


@lru_cache(maxsize=64)
def _profile(ref: str, revision: str) -> ModelProfile:
    """Read a model's profile once per revision, as every window asks for the profile."""
    return profile(ref)


def _mpx(plan: ClipPlan) -> float:
    """Return the million pixels of a frame."""
    return plan.size.width * plan.size.height / 1e6


def _negative(work: ClipWork) -> str:
    given = work.job.negative_prompt
    return default_negative_prompt(work.job.task) if given is None else given
