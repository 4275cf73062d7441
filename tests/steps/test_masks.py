"""Test that a dilation in tokens is in the model's tokens: a shrunk crop's tokens cover more source pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Dilation, Job, Pick, PointKey
from vace_batch.masks.notes import Notes
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import MaskReader, box_mask, write_masks
from vace_batch.planning.windows import Shot, WindowLimits, plan_clip
from vace_batch.steps.masks import dilate_at_model_scale, nothing_reason, parts_of

SIZE = Size(640, 360)
OBJECT, PROTECTED = Box(160, 90, 256, 160), Box(0, 90, 140, 160)
SHOTS = (Shot(start=0, stop=5),)


@pytest.mark.parametrize(("max_tokens", "shrinks"), [(100_000, False), (300, True)])
def test_tokens_are_those_of_the_models_scale(tmp_path: Path, max_tokens: int, shrinks: bool) -> None:
    limits = WindowLimits(max_tokens=max_tokens, max_frames=5, overlap_frames=2, min_side=64)
    masks, guards = str(tmp_path / "masks.parquet"), str(tmp_path / "guards.parquet")
    plain = [dilate(box_mask(index, OBJECT), SIZE, Dilation(px=16.0)) for index in range(5)]
    before = write_masks(masks, SIZE, plain)
    write_masks(guards, SIZE, [box_mask(2, PROTECTED)])
    made = dilate_at_model_scale(before, masks, guards, 1.0, SHOTS, limits)
    stored = MaskReader(masks)
    regions, _ = plan_clip(parts_of(stored, 5), SHOTS, SIZE, limits)
    assert (made.digest != before.digest) == shrinks and stored.boxes() == made.boxes
    token_px = regions[0].token_px
    assert (token_px > 20) == shrinks
    whole = stored.get(0, 5)
    assert OBJECT.x - whole[0].box.x == token_px == whole[0].box.bottom - OBJECT.bottom
    assert replace(whole[1], index=0) == whole[0]
    assert not whole[2].within(PROTECTED).any()


@pytest.mark.parametrize(
    ("columns", "notes", "reason"),
    [
        (
            {"targets": ("person", "car")},
            Notes(frames=1234, detected=310),
            "no person or car was found in 310 frames looked at of 1,234",
        ),
        ({"targets": ("person",)}, Notes(frames=9, detected=9), "no person was found in 9 frames looked at"),
        (
            {"targets": ("person",), "pick": Pick(largest=True)},
            Notes(frames=9, detected=9),
            "no person that `pick` keeps was found in 9 frames looked at",
        ),
        ({"mask_uri": "m.mkv"}, Notes(frames=1234), "mask_uri masks nothing in 1,234 frames"),
        ({"points": (PointKey(x=1, y=1),)}, Notes(frames=9), "no object was found at the points, in 9 frames"),
        ({"boxes": (BoxKey(x=1, y=1, width=4, height=4),)}, Notes(frames=9), "the boxes cover none of 9 frames"),
        ({"targets": ("person",)}, Notes(frames=9, selected=3), "all masked pixels are protected, in 9 frames"),
    ],
)
def test_the_reason_of_a_skipped_clip_names_what_was_looked_for(
    columns: dict[str, object], notes: Notes, reason: str
) -> None:
    job = Job(job_id="j", video_uri="v", task="removal", **columns)  # type: ignore[arg-type]
    assert nothing_reason(job, notes) == reason
