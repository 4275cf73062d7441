"""Test masks made for review alone; a killed review leaves no incomplete file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.moving_box import NUM_FRAMES, boxes, job
from vace_batch.batch.identity import works_of
from vace_batch.masks import export_files
from vace_batch.masks.export_files import SUFFIXES
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import MaskWriter
from vace_batch.options import Options
from vace_batch.report import mask_review as reviewing
from vace_batch.report.mask_review import Reviewed, review
from vace_batch.video.reader import read_frames

FORMS = list(SUFFIXES)


def reviewed(tmp_path: Path, form: str, first: int) -> Reviewed:
    out = str(tmp_path / "out")
    [work] = works_of([job(tmp_path, first)], out, Options(), str(tmp_path))
    return review(work, MaskModels(), out, form)


def killed(tmp_path: Path, form: str, module: Any, name: str, calls: int) -> None:
    """Review in a process that is killed at a given call of function `name` of `module`."""
    plain, count = getattr(module, name), iter(range(1, 1000))

    def deadly(*arguments: Any) -> Any:
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    def work() -> None:
        setattr(module, name, deadly)
        reviewed(tmp_path, form, 20)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("form", FORMS)
def test_a_review_has_masks_and_a_video_of_them(tmp_path: Path, form: str) -> None:
    row = reviewed(tmp_path, form, 8)
    assert row.error is None and (row.frames, row.masked_frames) == (NUM_FRAMES, NUM_FRAMES)
    assert row.masks is not None and boxes(Path(row.masks)) == [8 + 6 * index for index in range(NUM_FRAMES)]
    shown = [frame.rgb() for frame in read_frames(row.overlay or "")]
    inside, outside = np.mean([rgb[14:22, 10 + 6 * n : 18 + 6 * n, 0] for n, rgb in enumerate(shown)]), shown[0][40, 4]
    assert len(shown) == NUM_FRAMES and inside > outside[0] + 60, "masked pixels are tinted red"


@pytest.mark.parametrize(
    ("form", "place", "name", "calls"),
    [
        ("ffv1", export_files, "_full", 4),
        ("png", export_files, "_full", 4),
        ("parquet", MaskWriter, "add", NUM_FRAMES + 4),
        ("coco", export_files.Path, "write_text", 1),
        ("coco", reviewing, "shrink_to", 1),
    ],
)
def test_a_review_that_is_killed_leaves_nothing_half(
    tmp_path: Path, form: str, place: Any, name: str, calls: int
) -> None:
    """The process dies over the masks or, with `shrink_to`, over the video; files of an earlier review exist."""
    target, overlay = tmp_path / "out" / f"a{SUFFIXES[form]}", tmp_path / "out" / "a-overlay.mp4"
    reviewed(tmp_path, form, 8)
    before = overlay.read_bytes()
    killed(tmp_path, form, place, name, calls)
    assert boxes(target)[0] == (20 if place is reviewing else 8) and overlay.read_bytes() == before
    assert reviewed(tmp_path, form, 20).error is None and boxes(target)[0] == 20 and overlay.read_bytes() != before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {target.name, overlay.name}, "nothing is left over"
