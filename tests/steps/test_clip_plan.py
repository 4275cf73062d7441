"""The plan of a clip as it lies in the ledger."""

from __future__ import annotations

from vace_batch.geometry import Box, Size
from vace_batch.steps.clip_plan import CLIP_PLAN, ClipPlan
from vace_batch.video.canvas_frames import Canvas

WHOLE = Box(0, 0, 64, 48)
PLAN = ClipPlan(
    size=Size(64, 48),
    num_frames=9,
    shots=(),
    regions=(),
    windows=(),
    masked_frames=0,
    canvas=Canvas(size=Size(64, 48), source=WHOLE, kept=WHOLE, before=2),
)


def test_a_record_that_calls_the_canvas_stage_is_still_read() -> None:
    record = CLIP_PLAN.dump_python(PLAN, mode="json")
    assert CLIP_PLAN.validate_python(record) == PLAN
    record["stage"] = record.pop("canvas")
    assert CLIP_PLAN.validate_python(record) == PLAN
