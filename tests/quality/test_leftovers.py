"""The detector on a finished clip: the object is still found, or another object appeared."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import make_mask
from vace_batch.quality.compare import Comparison
from vace_batch.quality.leftovers import detect_leftovers
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip

SIZE, NUM_FRAMES = Size(96, 64), 8
PLACE, BESIDE = Box(24, 16, 24, 24), Box(70, 16, 16, 24)
RED, GREEN = (220, 20, 20), (20, 200, 20)


class Colours:
    """A stand-in detector by colour: a red blob is a ball, a green one a car."""

    classes = {0: "ball", 1: "car"}

    def check_targets(self, targets: Any) -> None:
        assert set(targets) <= set(self.classes.values())

    def detect(self, image: Any, names: Any, *, conf: float) -> list[Detection]:
        found = []
        for channel, label in enumerate(("ball", "car")):
            rows, columns = np.nonzero((image[..., channel] > 150) & (image.sum(axis=-1) < 350))
            if len(rows) > 50:
                x, y = int(columns.min()), int(rows.min())
                box = Box(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
                found.append(Detection(box=box, label=label, confidence=0.9, mask=None))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Models(MaskModels):
    def load_detector(self, name: str | None) -> Any:
        return Colours()


def picture(*things: tuple[Box, tuple[int, int, int]]) -> Any:
    image = np.full((SIZE.height, SIZE.width, 3), 110, np.uint8)
    for box, colour in things:
        image[box.slices] = colour
    return image


def shares(folder: Path, source: Any, outputs: list[Any], target: str = "ball") -> dict[str, float]:
    paths = {name: str(folder / f"{name}.mp4") for name in ("source", "output")}
    write_clip(paths["source"], [source] * NUM_FRAMES, rate=Fraction(25), crf=10)
    write_clip(paths["output"], outputs, rate=Fraction(25), crf=10)
    whole, bits = Box(0, 0, SIZE.width, SIZE.height), np.zeros((SIZE.height, SIZE.width), np.bool_)
    bits[PLACE.pad(4).slices] = True
    masks = {index: mask for index in range(NUM_FRAMES) if (mask := make_mask(index, bits)) is not None}
    comparison = Comparison(
        **paths,
        source_pts=packet_times(paths["source"]),
        output_pts=packet_times(paths["output"]),
        canvas=Canvas(size=SIZE, source=whole, kept=whole),
        num_frames=NUM_FRAMES,
        masks=lambda start, stop: {index: masks[index] for index in range(start, stop)},
        touched=(),
    )
    return detect_leftovers(
        Job(job_id="a", video_uri="", task="removal", targets=(target,)), comparison, sorted(masks), Models()
    )


@pytest.mark.parametrize(
    ("things", "detected", "appeared"),
    [
        ((), 0.0, 0.0),
        (((PLACE, RED),), 1.0, 0.0),
        (((PLACE, GREEN),), 0.0, 1.0),  # in its place there is something else now
        (((BESIDE, RED),), 0.0, 0.0),  # another one of its kind, that was not to go
    ],
    ids=["gone", "left", "replaced", "beside"],
)
def test_what_is_found_in_the_mask(tmp_path: Path, things: Any, detected: float, appeared: float) -> None:
    found = shares(tmp_path, picture((PLACE, RED)), [picture(*things)] * NUM_FRAMES)
    assert found == {"detected": detected, "appeared": appeared}


def test_shares_are_of_frames(tmp_path: Path) -> None:
    outputs = [picture((PLACE, RED)) if index < 2 else picture() for index in range(NUM_FRAMES)]
    assert shares(tmp_path, picture((PLACE, RED)), outputs)["detected"] == 0.25


def test_what_was_there_before_is_not_new(tmp_path: Path) -> None:
    inside = Box(PLACE.x, PLACE.y, 20, 20)
    found = shares(tmp_path, picture((inside, GREEN)), [picture((inside, GREEN))] * NUM_FRAMES)
    assert found == {"detected": 0.0, "appeared": 0.0}
