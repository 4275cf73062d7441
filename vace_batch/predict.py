"""What a clip will cost, from its plan: arithmetic on frames, pixels, tokens and FLOP, times what was measured.

`Used` by step, the steps as the ledger and the dispatcher call them: prepare, build, generate, stitch, measure. What a
clip's plan does not say is not in it: further attempts, repeated runs, kept masks, records.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from vace_batch import profiles
from vace_batch.cost import Calibration, Used
from vace_batch.job import Job
from vace_batch.masks.source import has_mask_source, needs_pixels
from vace_batch.work import ClipPlan, ClipWork, PlannedWindow

STEPS = ("prepare", "build", "generate", "stitch", "measure")


def predict(work: ClipWork, plan: ClipPlan, windows: Iterable[PlannedWindow] | None = None) -> dict[str, Used]:
    """A clip's costs by step; of its windows only `windows`, all unless given."""
    return {
        "prepare": prepare_cost(work, plan),
        **windows_cost(work, plan, plan.windows if windows is None else windows),
        **finish_cost(work, plan),
    }


def prepare_cost(work: ClipWork, plan: ClipPlan) -> Used:
    """Decoding, cuts, masks, recovered background; the files of the plan."""
    rates, sizes, mpx = work.options.calibration.cpu, work.options.calibration.bytes, _mpx(plan)
    seconds = rates.scan.seconds(plan.num_frames, mpx)
    if needs_pixels(work.job):
        seconds += rates.look.seconds(plan.num_frames, mpx)
    per_mpx = sizes.masks
    if _recovers(work.job):
        seconds += rates.background.seconds(plan.masked_frames, mpx)
        per_mpx += sizes.background
    return Used(cpu_s=seconds, num_bytes=plan.masked_frames * mpx * per_mpx)


def windows_cost(work: ClipWork, plan: ClipPlan, windows: Iterable[PlannedWindow]) -> dict[str, Used]:
    """Building and generating windows."""
    build, generate = Used(), Used()
    for planned in windows:
        build += build_cost(work, plan, planned)
        generate += window_cost(work, plan, planned)
    return {"build": build, "generate": generate}


def build_cost(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> Used:
    """Decoding a window's frames again, cutting them out and shrinking them."""
    frames = planned.window.stop - planned.window.start
    return Used(cpu_s=work.options.calibration.cpu.build.seconds(frames, _mpx(plan)))


def window_cost(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> Used:
    """A window's device seconds, and its generated frames."""
    calibration: Calibration = work.options.calibration
    size, frames = plan.regions[planned.window.region].size, planned.window.num_frames
    parts = _profile(work.model).window_parts(
        frames,
        size,
        work.sampling,
        num_references=len(work.job.reference_uris),
        guided=work.job.prompt != _negative(work),
        encodes=2 if work.job.controls and has_mask_source(work.job) else 1,
    )
    return Used(
        gpu_s=calibration.speed(work.model).seconds(*parts) * work.options.engine.devices,
        num_bytes=frames * size.width * size.height / 1e6 * calibration.bytes.window,
    )


def finish_cost(work: ClipWork, plan: ClipPlan) -> dict[str, Used]:
    """Stitching with its encoding, and measuring the result."""
    rates, mpx = work.options.calibration.cpu, _mpx(plan)
    measured = rates.quality.seconds(plan.masked_frames, mpx) if work.options.quality.enabled else 0.0
    return {
        "stitch": Used(
            cpu_s=rates.stitch.seconds(plan.masked_frames, mpx),
            num_bytes=plan.source_bytes * work.options.calibration.bytes.video,
        ),
        "measure": Used(cpu_s=measured),
    }


def may_shrink(job: Job) -> bool:
    """Whether only masks and background, once made, say what is left for the GPU."""
    return needs_pixels(job) or _recovers(job)


def _recovers(job: Job) -> bool:
    return job.task == "removal" and job.background == "auto"


@lru_cache(maxsize=64)
def _profile(ref: str) -> profiles.ModelProfile:
    """Read once: every window asks."""
    return profiles.profile(ref)


def _mpx(plan: ClipPlan) -> float:
    """Million pixels of a frame."""
    return plan.size.width * plan.size.height / 1e6


def _negative(work: ClipWork) -> str:
    given = work.job.negative_prompt
    return profiles.default_negative_prompt(work.job.task) if given is None else given
