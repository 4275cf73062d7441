"""Test the plan of a clip as the ledger stores it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vace_batch.geometry import Box, Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.masks.store import box_mask, write_masks
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


def test_a_plan_is_read_back_from_its_record_and_another_record_is_refused() -> None:
    record = CLIP_PLAN.dump_python(PLAN, mode="json")
    assert CLIP_PLAN.validate_python(record) == PLAN
    record["stage"] = record.pop("canvas")  # the record of an earlier version, whose OUT is refused
    with pytest.raises(ValidationError, match="canvas"):
        CLIP_PLAN.validate_python(record)


def test_files_are_told_by_kind_and_a_kind_without_a_file_reads_as_empty(tmp_path: Path) -> None:
    write_masks(str(tmp_path / "m.parquet"), WHOLE.size, [box_mask(3, Box(4, 4, 8, 8))])
    plan = PLAN.with_files({"masks": "m.parquet", "holes": "m.parquet"})
    assert plan.files == {"masks": "m.parquet", "holes": "m.parquet"}
    assert plan.recovered is None and plan.with_files({}) == PLAN and PLAN.files == {}
    with plan.open_files(Ledger(str(tmp_path))) as files:
        assert files.masks("holes", 0, 9)[3].box == Box(4, 4, 8, 8) and not files.masks("holes", 4, 9)
        assert files.mask_reader("masks") is files.mask_reader("masks") is not None
        assert files.mask_reader("protected") is None
        assert files.masks("selection", 0, 9) == {} == files.patches(0, 9)
