"""The table of costs by model, preset and crop."""

from __future__ import annotations

from vace_batch.geometry import Size
from vace_batch.vace.profiles import VACE_1_3B, VACE_14B
from vace_batch.vace.sizing import rows


def test_a_crop_that_the_model_does_not_take_in_one_window_has_no_row() -> None:
    crops = {model: {row.crop for row in rows() if row.model == model} for model in (VACE_1_3B, VACE_14B)}
    assert crops[VACE_14B] - crops[VACE_1_3B] == {Size(1280, 720)}


def test_four_steps_cost_less_than_fifty_and_a_second_forward_costs_more() -> None:
    seconds = {row.preset: row.window_s for row in rows() if (row.model, row.crop) == (VACE_14B, Size(832, 480))}
    assert seconds["fast"] < 0.1 * seconds["removal"]
    assert 1.5 * seconds["removal"] < seconds["restyle"] < 2.1 * seconds["removal"]
