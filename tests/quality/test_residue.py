"""How much of an object is left: what remains of it is told from what the background has by itself."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from vace_batch.geometry import Box
from vace_batch.quality.residue import ResidueMeter, measure_residue, unlike_surroundings

SIDE = 128
Y, X = np.mgrid[0:SIDE, 0:SIDE]
DISC = (X - 64) ** 2 + (Y - 64) ** 2 < 24**2
MASK = np.asarray((X - 64) ** 2 + (Y - 64) ** 2 < 30**2, np.bool_)
BOX = np.asarray((abs(X - 64) < 34) & (abs(Y - 64) < 34), np.bool_)


def texture(seed: int, fine: float = 0.6) -> Any:
    noise = np.random.default_rng(seed).uniform(-127, 127, (SIDE, SIDE, 3)).astype(np.float32)
    return np.clip(110 + cv2.GaussianBlur(noise, (0, 0), 1.2) * fine + cv2.GaussianBlur(noise, (0, 0), 8) * 4, 0, 255)


GROUND = texture(1)
GROUNDS = {"textured": GROUND, "plain": np.full_like(GROUND, 120.0), "dark": GROUND * 0.15}
SOURCES = {
    name: np.where(DISC[..., None], (np.float32([200, 40, 30]) * scale + 0.5 * (texture(7) - 110) * scale), ground)
    for (name, ground), scale in zip(GROUNDS.items(), (1.0, 1.0, 0.4), strict=True)
}


@pytest.mark.parametrize("mask", [MASK, BOX], ids=["mask", "box"])
@pytest.mark.parametrize("name", GROUNDS)
def test_the_truth_has_nothing_of_the_object(name: str, mask: Any) -> None:
    for output in (GROUNDS[name], GROUNDS[name] + np.random.default_rng(3).normal(0, 2, GROUND.shape)):
        residue = measure_residue(SOURCES[name], np.float32(output), mask)
        assert residue is not None and residue.left < 0.1 and residue.changed > 0.3


@pytest.mark.parametrize("mask", [MASK, BOX], ids=["mask", "box"])
@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize("opacity", [1.0, 0.6, 0.3])
def test_an_object_at_any_opacity_is_measured_as_such(name: str, mask: Any, opacity: float) -> None:
    output = opacity * SOURCES[name] + (1 - opacity) * GROUNDS[name]
    residue = measure_residue(SOURCES[name], np.float32(output), mask)
    assert residue is not None and residue.left == pytest.approx(opacity, abs=0.12)


@pytest.mark.parametrize("name", GROUNDS)
def test_half_an_object_is_half_of_it(name: str) -> None:
    output = np.where((Y < 64)[..., None], SOURCES[name], GROUNDS[name])
    residue = measure_residue(SOURCES[name], np.float32(output), MASK)
    assert residue is not None and residue.left == pytest.approx(0.5, abs=0.15)


def test_another_texture_of_the_same_kind_is_no_residue() -> None:
    source = np.where(DISC[..., None], texture(9), GROUND)
    residue = measure_residue(np.float32(source), GROUND, MASK)
    assert residue is not None and residue.left < 0.2


def test_an_object_that_was_put_back_a_little_beside_is_left() -> None:
    moved = np.where(np.roll(DISC, 7, axis=1)[..., None], np.roll(SOURCES["textured"], 7, axis=1), GROUND)
    residue = measure_residue(np.float32(SOURCES["textured"]), np.float32(moved), BOX)
    gone = measure_residue(np.float32(SOURCES["textured"]), GROUND, BOX)
    assert residue is not None and gone is not None
    assert residue.surely_left > 0.5 and gone.surely_left < 0.1


def test_a_lifted_shadow_is_no_residue() -> None:
    source = np.where(DISC[..., None], 0.6 * GROUND, GROUND)
    residue = measure_residue(np.float32(source), GROUND, MASK)
    assert residue is not None and residue.left < 0.2


def test_too_little_to_measure_gives_no_number() -> None:
    assert measure_residue(GROUND, GROUND, np.ones_like(MASK)) is None
    assert measure_residue(GROUND, GROUND, np.zeros_like(MASK)) is None


def test_the_surroundings_decide_what_is_unlike_them() -> None:
    assert not unlike_surroundings(GROUND, MASK).any()
    unlike = unlike_surroundings(np.float32(SOURCES["textured"]), MASK)
    assert (
        unlike[DISC].mean() > 0.9
        and unlike[MASK & ~cv2.dilate(DISC.astype(np.uint8), np.ones((9, 9))).view(bool)].mean() < 0.1
    )
    rough = np.full((96, 96, 3), 100.0, np.float32) + np.random.default_rng(2).normal(0, 25, (96, 96, 3))
    disc = DISC[16:112, 16:112]
    faint = np.where(disc[..., None], rough + 5, rough)
    assert unlike_surroundings(np.float32(faint), disc)[disc].mean() < 0.3


def metrics_of(outputs: list[Any], *, moves: bool = True) -> dict[str, float]:
    """Measure frames of the textured source; with `moves` the mask is another one in each frame."""
    meter = ResidueMeter()
    for index, output in enumerate(outputs):
        mask = MASK.copy()
        mask[20, 20 + index] = moves
        box = Box(0, 0, SIDE, SIDE)
        meter.add(index, box, np.float32(SOURCES["textured"]), np.float32(output), mask)
    return meter.metrics()


def test_three_frames_in_a_row_count_and_a_single_one_does_not() -> None:
    source = SOURCES["textured"]
    gone = [GROUND] * 20
    assert metrics_of(gone)["residual"] < 0.05
    assert metrics_of([*gone[:8], *[source] * 3, *gone[11:]])["residual"] == pytest.approx(0.5, abs=0.05)
    assert metrics_of([*gone[:8], source, *gone[9:]])["residual"] < 0.2
    assert metrics_of([source] * 20) == {"residual": pytest.approx(1.0), "unchanged": 1.0}


def test_a_quarter_of_the_object_counts_more_than_its_area() -> None:
    quarter = DISC & (Y < 64) & (X < 64)
    left = metrics_of([np.where(quarter[..., None], SOURCES["textured"], GROUND)] * 6)["residual"]
    assert left == pytest.approx(0.4, abs=0.06)


def test_a_mask_that_stands_still_may_wait_for_its_object() -> None:
    meter = ResidueMeter()
    for index in range(20):
        source = SOURCES["textured"] if index >= 10 else GROUND
        meter.add(index, Box(0, 0, SIDE, SIDE), np.float32(source), GROUND, BOX)
    metrics = meter.metrics()
    assert metrics["residual"] < 0.1 and metrics["unchanged"] == 0.5


def test_a_clip_without_a_frame_to_measure_has_no_metric() -> None:
    assert ResidueMeter().metrics() == {}
