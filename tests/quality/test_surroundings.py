"""Fills beside their own surroundings: colour and contrast across the border of the mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from vace_batch.quality.surroundings import NUM_COLOUR_STEPS, measure_border

SIDE = 200
Y, X = np.mgrid[0:SIDE, 0:SIDE]
DISC = (X - 100) ** 2 + (Y - 96) ** 2 < 34**2
Fill = Callable[[Any], Any]


def noise(sigma: float, contrast: float, seed: int = 1) -> Any:
    raw = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE, 3)), (0, 0), sigma)
    return (contrast * raw / raw.std()).astype(np.float32)


def wall_beside_hedge() -> Any:
    """A smooth wall at the left, a hedge at the right; the border between them goes through the disc."""
    hedge = np.float32([60, 110, 50]) + noise(1.5, 30)
    return np.where((X < 96)[..., None], np.float32([190, 180, 170]) + noise(1.0, 1.5), hedge)


GROUNDS = {
    "rough": lambda: 120 + noise(1.5, 25),
    "smooth": lambda: 90 + 0.4 * np.stack([X, Y, X], -1).astype(np.float32) + noise(1.0, 1),
    "dark": lambda: 20 + noise(3.0, 5),
    "grainy": lambda: 110 + noise(0.5, 8),
    "wall beside hedge": wall_beside_hedge,
}


def steps(ground: Any, fill: Fill, mask: Any = DISC) -> tuple[float, float, float]:
    """Return the step of colour in levels, the lack of contrast and the excess of contrast in powers of two."""
    made = np.where(mask[..., None], fill(ground.copy()), ground)
    border = measure_border(np.clip(np.rint(made), 0, 255).astype(np.float32), mask)
    assert border is not None
    contrasts = np.array(border.steps[NUM_COLOUR_STEPS:])
    return float(np.abs(border.steps[:NUM_COLOUR_STEPS]).max()), float(-contrasts.min()), float(contrasts.max())


@pytest.mark.parametrize("name", GROUNDS)
def test_a_faultless_fill_has_no_step_in_any_picture(name: str) -> None:
    colour, softer, rougher = steps(GROUNDS[name](), lambda ground: ground)
    assert colour < 1.5 and softer < 0.1 and rougher < 0.1


@pytest.mark.parametrize(("name", "levels"), [("rough", 14), ("smooth", 5), ("dark", 6), ("grainy", 6)])
def test_a_wrong_colour_is_a_step_of_at_most_its_size(name: str, levels: float) -> None:
    ground = GROUNDS[name]()
    assert 1.5 < steps(ground, lambda ground: ground + levels)[0] < 1.4 * levels
    assert 1.5 < steps(ground, lambda ground: ground + np.float32([0, 0, 2 * levels]))[0], "one channel"


@pytest.mark.parametrize("name", ["rough", "grainy"])
def test_a_smear_lacks_contrast_and_a_rough_fill_has_too_much(name: str) -> None:
    ground = GROUNDS[name]()
    smear = cv2.inpaint(ground.clip(0, 255).astype(np.uint8), DISC.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    assert steps(ground, lambda ground: smear.astype(np.float32))[1] > 0.1
    assert steps(ground, lambda ground: cv2.GaussianBlur(ground, (0, 0), 4))[1] > 0.1
    assert steps(ground, lambda ground: ground + noise(0.8, 60, seed=9))[2] > 0.1


def test_a_fault_along_a_part_of_the_border_counts() -> None:
    part = DISC & (Y > 100)
    assert steps(GROUNDS["smooth"](), lambda ground: ground + 12 * part[..., None])[0] > 1.5


def test_without_room_for_a_comparison_there_is_no_measure() -> None:
    assert measure_border(GROUNDS["rough"]()[60:130, 66:134], DISC[60:130, 66:134]) is None
    assert measure_border(GROUNDS["rough"](), np.ones_like(DISC)) is None
    assert measure_border(GROUNDS["rough"](), np.zeros_like(DISC)) is None
