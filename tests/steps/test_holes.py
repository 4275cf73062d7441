"""The holes of a clip: all of its masks, or the masked pixels that no other frame shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.prepared_clips import Prepare
from vace_batch.manifest.job import BoxKey
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import MaskReader
from vace_batch.steps.holes import recover
from vace_batch.steps.masks import find_masks
from vace_batch.steps.open_clip import open_clip

BOX = BoxKey(x=16, y=16, width=24, height=24)


@pytest.mark.parametrize(
    ("task", "background", "models", "recovers"),
    [
        ("removal", "auto", MaskModels(), True),
        ("removal", "off", MaskModels(), False),
        ("removal", "auto", None, False),
        ("inpainting", "auto", MaskModels(), False),
    ],
)
def test_only_a_removal_that_is_looked_at_is_recovered(
    prepared: Prepare, tmp_path: Path, task: str, background: str, models: MaskModels | None, recovers: bool
) -> None:
    work, _ = prepared(task, boxes=(BOX,), background=background)
    with open_clip(work, models, tmp_path) as clip:
        masks = find_masks(clip)
        holes = recover(clip, masks)
    assert (holes.recovered == clip.file("recovered")) == recovers == (holes.recovered_share > 0)
    assert holes.file == (clip.file("holes") if recovers else masks.file)
    assert holes.is_empty == (not MaskReader(holes.file).boxes())
