"""The dispatcher's unit for each step of a clip: its payload, priority, time limit and predicted cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

from vace_batch.cluster.units import Unit
from vace_batch.costs import StepKind, Used
from vace_batch.ledger.schema import AttemptRecord
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.steps.prediction import build_cost, finish_cost, window_cost
from vace_batch.vcu.unit import batch_key


class Stage(IntEnum):
    """The order of units before the priorities of their jobs count: units that feed the GPUs, then units that finish a
    clip."""

    BEGIN = 0
    FINISH = 1
    FEED = 2


_NOTHING = Used()


def prepare_unit(work: ClipWork) -> Unit:
    """Make the unit that prepares a clip."""
    return _clip_unit(StepKind.PREPARE, work, work, Stage.BEGIN)


def keep_unit(work: ClipWork) -> Unit:
    """Make the unit that keeps the masks of a clip that is done."""
    return _clip_unit(StepKind.KEEP, work, work, Stage.BEGIN)


def stitch_unit(work: ClipWork, plan: ClipPlan) -> Unit:
    """Make the unit that stitches a clip whose windows are all generated."""
    return _clip_unit(StepKind.STITCH, work, (work, plan), Stage.FINISH, finish_cost(work, plan)["stitch"])


def measure_unit(work: ClipWork, plan: ClipPlan) -> Unit:
    """Make the unit that measures a stitched clip."""
    return _clip_unit(StepKind.MEASURE, work, (work, plan), Stage.FINISH, finish_cost(work, plan)["measure"])


def select_best_unit(work: ClipWork, attempts: Sequence[AttemptRecord], best: int) -> Unit:
    """Put attempt number `best` of a clip in its place; `work` is that of the first attempt."""
    return _clip_unit(StepKind.SELECT_BEST, work, (work, attempts, best), Stage.FINISH)


def window_units(work: ClipWork, plan: ClipPlan, planned: PlannedWindow, key: str) -> tuple[Unit, Unit]:
    """Make the units that build a window's VCU and generate its frames."""
    size = plan.region_of(planned).size
    num_frames = planned.window.num_frames
    build = Unit(
        kind=StepKind.BUILD,
        key=key,
        pool="cpu",
        fn=_function(StepKind.BUILD),
        payload=(work, plan, planned),
        leaves_bytes=num_frames * size.width * size.height * 4,
        priority=(Stage.FEED, work.job.priority),
        time_limit_s=work.options.unit_time_limit_s,
        expected=build_cost(work, plan, planned),
    )
    model = (work.model, work.revision, work.out)
    generate = replace(
        build,
        kind=StepKind.GENERATE,
        pool="gpu",
        fn=_function(StepKind.GENERATE),
        payload=model,
        inputs=(build.unit_id,),
        leaves_bytes=0,
        batch_key=(*model, batch_key(size, num_frames, len(work.job.reference_uris), work.sampling)),
        priority=(Stage.BEGIN, work.job.priority),
        expected=window_cost(work, plan, planned),
    )
    return build, generate


def _clip_unit(kind: StepKind, work: ClipWork, payload: object, stage: Stage, expected: Used = _NOTHING) -> Unit:
    return Unit(
        kind=kind,
        key=work.clip_key,
        pool="cpu",
        fn=_function(kind),
        payload=payload,
        priority=(stage, work.job.priority),
        time_limit_s=work.options.unit_time_limit_s,
        expected=expected,
    )


def _function(kind: StepKind) -> str:
    """Return the worker function of a step; both have the same name."""
    return f"vace_batch.batch.workers:{kind}"
