"""Frames without a mask in which the object shows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fills import SIZE, pictures
from vace_batch.geometry import Box
from vace_batch.masks.store import FrameMask
from vace_batch.quality.compare import Comparison
from vace_batch.quality.missed import count_missed
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip

NUM = 12
WHOLE = Box(0, 0, SIZE.width, SIZE.height)


def as_picture(image: Any) -> Any:
    return np.clip(image, 0, 255).astype(np.uint8)


def clip(folder: Path, *, shown: Collection[int], there: range = range(NUM)) -> Comparison:
    """Write a source whose object is in the frames `there`, and an output that shows the object in frames `shown`."""
    sources, outputs = [], []
    for index in range(NUM):
        source, truth, _ = pictures(index)
        sources.append(as_picture(source if index in there else truth))
        outputs.append(as_picture(source if index in shown and index in there else truth))
    paths = []
    for name, frames in (("source", sources), ("output", outputs)):
        paths.append(str(folder / f"{name}.mp4"))
        write_clip(paths[-1], frames, rate=Fraction(25), crf=18)
    times = packet_times(paths[0])
    return Comparison(
        source=paths[0],
        output=paths[1],
        source_pts=times,
        output_pts=times,
        canvas=Canvas(size=SIZE, source=WHOLE, kept=WHOLE),
        num_frames=NUM,
        masks=lambda start, stop: masks(range(start, stop)),
        touched=(),
    )


def masks(span: range) -> dict[int, FrameMask]:
    return {index: pictures(index)[2] for index in span if index < NUM}


def missed(comparison: Comparison, without: Collection[int], *, asked: range = range(NUM), cuts: Any = (0,)) -> float:
    masked = [index for index in range(NUM) if index not in without]
    known = replace(
        comparison,
        masks=lambda start, stop: {i: m for i, m in masks(range(start, stop)).items() if i not in without},
    )
    return count_missed(known, masked, asked, cuts).get("missed", 0.0)


@pytest.mark.parametrize("without", [(5, 6, 7), (5,), (0, 1), (10, 11)], ids=["lost", "one", "late", "early"])
def test_an_object_in_frames_without_a_mask_is_counted(tmp_path: Path, without: tuple[int, ...]) -> None:
    assert missed(clip(tmp_path, shown=without), without) == len(without)


@pytest.mark.parametrize(
    ("there", "without"),
    [(range(4, NUM), (0, 1, 2, 3)), (range(8), (8, 9, 10, 11))],
    ids=["enters", "leaves"],
)
def test_an_object_that_is_not_there_is_not_missed(tmp_path: Path, there: range, without: tuple[int, ...]) -> None:
    assert missed(clip(tmp_path, shown=range(NUM), there=there), without) == 0


def test_masks_of_all_frames_miss_nothing(tmp_path: Path) -> None:
    assert count_missed(clip(tmp_path, shown=()), range(NUM), range(NUM), (0,)) == {}


def test_frames_beyond_the_job_or_the_shot_are_not_asked_for(tmp_path: Path) -> None:
    without = (8, 9, 10, 11)
    comparison = clip(tmp_path, shown=without)
    assert missed(comparison, without) == 3
    assert missed(comparison, without, asked=range(8)) == 0
    assert missed(comparison, without, cuts=(0, 8)) == 0


def test_a_fill_that_shows_the_object_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert missed(clip(tmp_path, shown=range(NUM)), (5, 6, 7)) == 0
