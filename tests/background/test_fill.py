"""Fills: values go on smoothly into gaps, and only narrow or plain gaps are bridged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.background.fill import bridge, spread_inwards, stretch_across
from vace_batch.geometry import Bridging

ROWS, COLUMNS = np.mgrid[:60, :90].astype(np.float32)
PLANE = np.stack([50 + COLUMNS, 40 + 2 * ROWS, 200 - COLUMNS], axis=-1)


def gap(height: int, width: int) -> NDArray[np.bool_]:
    """All known but a box in the middle."""
    known = np.ones((60, 90), np.bool_)
    known[30 - height // 2 : 30 + (height + 1) // 2, 45 - width // 2 : 45 + (width + 1) // 2] = False
    return known


def test_known_values_stay_and_constants_go_on() -> None:
    known = gap(20, 30)
    noise = np.random.default_rng(0).uniform(0, 255, (60, 90, 3)).astype(np.float32)
    np.testing.assert_allclose(spread_inwards(noise, known)[known], noise[known], atol=1e-3)
    flat = np.full((60, 90, 3), 77, np.float32)
    flat[~known] = 255
    np.testing.assert_allclose(spread_inwards(flat, known), 77, atol=1e-3)


def test_a_fill_lies_between_its_sides_and_follows_them() -> None:
    known = gap(60, 30)
    filled = spread_inwards(np.where(known[..., None], PLANE, 0), known)
    assert filled[~known][:, 0].min() > 75 and filled[~known][:, 0].max() < 115
    assert np.all(np.diff(filled[30, 30:60, 0]) > -0.5)


def test_a_plate_under_tension_carries_slopes_across() -> None:
    known = gap(16, 16)
    damaged = np.where(known[..., None], PLANE, 0).astype(np.float32)
    assert np.abs(stretch_across(damaged, known) - PLANE).max() < 1
    assert np.abs(spread_inwards(damaged, known) - PLANE).max() > 1
    np.testing.assert_array_equal(
        stretch_across(damaged, np.zeros_like(known)), spread_inwards(damaged, ~known & known)
    )


def test_a_plate_keeps_the_curve_that_a_membrane_flattens() -> None:
    known = gap(16, 16)
    valley = np.repeat(((COLUMNS - 45) ** 2 / 10)[..., None], 3, axis=2)
    filled = stretch_across(np.where(known[..., None], valley, 255).astype(np.float32), known)
    assert np.abs(filled - valley).max() < 3, "a membrane alone is off by 4"


def test_narrow_gaps_are_bridged_and_wide_ones_before_detail_are_not() -> None:
    detail = np.random.default_rng(1).uniform(0, 255, (60, 90, 3)).astype(np.float32)
    for height, bridged in ((3, True), (30, False)):
        known = gap(height, 40)
        _, enough = bridge(detail, known, Bridging(px=6, levels=2.0))
        assert enough[~known].all() == bridged and enough[~known].any() == bridged
        assert not (enough & known).any()


@pytest.mark.parametrize(("levels", "bridged"), [(2.0, True), (0.0, False)])
def test_a_wide_gap_before_a_plain_wall_is_bridged_where_levels_allow_it(levels: float, bridged: bool) -> None:
    known = gap(20, 30)
    wall = PLANE + np.random.default_rng(2).normal(0, 0.5, PLANE.shape).astype(np.float32)
    filled, enough = bridge(
        np.where(known[..., None], wall, 0).astype(np.float32), known, Bridging(px=2, levels=levels)
    )
    assert enough[~known].all() == bridged
    assert np.abs(filled - PLANE)[~known].mean() < 2
