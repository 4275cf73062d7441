"""Fills beside the background that other frames of the source show in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from vace_batch.geometry import Box
from vace_batch.quality.crops import CropPair
from vace_batch.quality.fill_meter import FillMeter
from vace_batch.quality.revealed import compare_with, known_pixels

HEIGHT, WIDTH = 160, 320
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
Fill = Callable[[int, Any], Any]


def ground(pan: float = 0.0) -> Any:
    """A textured picture with a dark bar, seen by a camera that has panned by some pixels."""
    noise = np.random.default_rng(4).normal(0, 1, (HEIGHT, WIDTH + 80, 3)).astype(np.float32)
    picture = 120 + 60 * cv2.GaussianBlur(noise, (0, 0), 1.5) + 200 * cv2.GaussianBlur(noise, (0, 0), 8)
    picture[74:84] = 30
    matrix = np.float32([[1, 0, -pan], [0, 1, 0]])
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)  # type: ignore[arg-type]


def view(index: int, fill: Fill, speed: float = 6.0, pan: float = 0.0) -> CropPair:
    """Crop a frame in which a disc that moves by `speed` is replaced by `fill`."""
    truth = ground(pan * index)
    mask = (X - 80 - speed * index) ** 2 + (Y - 80) ** 2 < 26**2
    source = np.where(mask[..., None], np.float32([220, 40, 40]), truth)
    output = np.where(mask[..., None], fill(index, truth), truth)
    box = Box(int(54 + speed * index), 54, 53, 53).pad(100).intersect(Box(0, 0, WIDTH, HEIGHT))
    assert box is not None
    shown = (np.clip(np.rint(image[box.slices]), 0, 255).astype(np.uint8) for image in (source, output))
    return CropPair(index=index, box=box, source=next(shown), output=next(shown), mask=mask[box.slices])


def unlike(fill: Fill, **moves: float) -> float | None:
    meter = FillMeter()
    for index in range(0, 20, 4):
        meter.add(view(index, fill, **moves))
    return meter.metrics().get("unlike")


@pytest.mark.parametrize("moves", [{}, {"speed": 0.0, "pan": 3.0}, {"speed": 3.0, "pan": -2.0}])
def test_the_background_is_like_itself_however_object_and_camera_move(moves: dict[str, float]) -> None:
    for fill in (lambda i, t: t, lambda i, t: t + np.random.default_rng(i).normal(0, 2, t.shape), lambda i, t: t + 1):
        value = unlike(fill, **moves)
        assert value is not None and value < 2


@pytest.mark.parametrize(
    "fill",
    [
        lambda i, t: t + 8,
        lambda i, t: t + np.float32([0, 10, 0]),
        lambda i, t: cv2.GaussianBlur(t, (0, 0), 4),
        lambda i, t: np.full_like(t, t.mean()),
        lambda i, t: t[:, ::-1],
        lambda i, t: np.where((np.abs(Y - 79) < 7)[..., None], np.roll(t, 30, axis=0), t),
    ],
    ids=["colour", "channel", "blur", "mean", "elsewhere", "bar cut off"],
)
def test_another_fill_is_unlike_the_background(fill: Fill) -> None:
    value = unlike(fill)
    assert value is not None and value > 2.7


def test_a_place_that_no_frame_shows_is_not_compared() -> None:
    assert unlike(lambda i, t: t + 20, speed=0.0) is None
    assert compare_with(view(0, lambda i, t: t, speed=0.0), view(4, lambda i, t: t, speed=0.0)) is None


def test_surroundings_that_are_another_scene_tell_nothing() -> None:
    other = view(8, lambda i, t: t)
    assert other.source is not None
    strange = CropPair(
        index=8,
        box=other.box,
        source=np.ascontiguousarray(other.source[::-1, ::-1]),
        output=other.output,
        mask=other.mask,
    )
    assert compare_with(view(0, lambda i, t: t), strange) is None


def test_the_revealed_part_of_a_fill_is_known() -> None:
    fill, other = view(0, lambda i, t: t), view(5, lambda i, t: t)
    compared = compare_with(fill, other)
    assert compared is not None and 0.3 < compared.share < 1
    mask = (X - 80) ** 2 + (Y - 80) ** 2 < 26**2
    crop = mask[14:146, 14:146]
    known = known_pixels([compared], crop)
    rows, columns = np.nonzero(known)
    assert (crop | ~known)[4:-4, 4:-4].mean() > 0.97 and columns.mean() < 66, "the disc covers its right part later"


def test_a_fill_is_judged_by_its_surroundings_where_no_frame_shows_its_place() -> None:
    meters = FillMeter(), FillMeter(by_frames=False)
    for index in range(0, 20, 4):
        meters[0].add(view(index, lambda i, t: t + 25, speed=0.0))
        meters[1].add(view(index, lambda i, t: t + 25))
    for meter in meters:
        metrics = meter.metrics()
        assert metrics["seam"] > 1.5 and "unlike" not in metrics


def test_the_worst_shot_counts_and_no_shot_is_compared_with_another() -> None:
    meter = FillMeter()
    for index in range(0, 20, 4):
        meter.add(view(index, lambda i, t: t))
    meter.begin_shot()
    for index in range(0, 20, 4):
        meter.add(view(index, lambda i, t: t + 12))
    meter.begin_shot()
    for index in range(0, 20, 4):
        meter.add(view(index, lambda i, t: t))
    assert meter.metrics()["unlike"] > 2.7


def test_a_smear_in_the_part_that_no_frame_shows_is_found() -> None:
    """The object hardly moves: its rim is recovered from other frames, its core is a smear."""
    core = (X - 90) ** 2 + (Y - 80) ** 2 < 24**2

    def recovered(index: int, truth: Any) -> Any:
        return np.where(core[..., None], cv2.GaussianBlur(truth, (0, 0), 6), truth)

    for fill, smeared in ((recovered, True), (lambda i, t: t, False)):
        meter = FillMeter()
        for index in range(0, 20, 4):
            meter.add(view(index, fill, speed=1.0))
        blur = meter.metrics().get("blur", 0.0)
        assert (blur > 0.12) == smeared, blur


def test_the_generated_part_of_a_fill_is_judged_by_itself() -> None:
    """Other frames show the whole place, and the plan says that a model made its right half nevertheless."""

    def half_smeared(index: int, truth: Any) -> Any:
        smear = (X - 80 - 6 * index) > 4
        return np.where(smear[..., None], cv2.GaussianBlur(truth, (0, 0), 6), truth)

    blurs = []
    for told in (True, False):
        meter = FillMeter()
        for index in range(0, 20, 4):
            crops = view(index, half_smeared)
            right = np.zeros_like(crops.mask)
            columns = np.flatnonzero(crops.mask.any(axis=0))
            right[:, int(columns.mean()) + 5 :] = True
            meter.add(replace(crops, generated=crops.mask & right) if told else crops)
        blurs.append(meter.metrics().get("blur", 0.0))
    assert blurs[0] > 0.2 > blurs[1]
