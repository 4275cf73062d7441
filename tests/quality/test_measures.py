"""Single measures on crops with known faults."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.fills import SIZE, pictures, textured
from vace_batch.quality.measures import change, neutral, uncovered


def test_only_what_is_neutral_in_every_channel_is_gray() -> None:
    inside = np.zeros((64, 64), np.bool_)
    inside[16:48, 16:48] = True
    for colour, found in (((128, 128, 128), True), ((128, 60, 128), False), ((60, 60, 60), False)):
        picture = np.full((64, 64, 3), 200.0, np.float32)
        picture[inside] = colour
        gray, area = neutral(picture, inside)
        assert (gray / area > 0.7) == found and (gray == 0) != found, colour


@pytest.mark.parametrize(("radius", "least", "most"), [(27, 0.0, 0.0), (23, 0.0, 0.02), (18, 0.5, 1.0), (12, 0.9, 1.0)])
def test_a_mask_that_ends_in_the_object_is_too_small(radius: int, least: float, most: float) -> None:
    """The disc has a radius of 22 px."""
    source, _, mask = pictures(0)
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    bits = (x - 60) ** 2 + (y - 62) ** 2 < radius**2
    rim, whole = uncovered(source.astype(np.float32), bits)
    assert least <= rim / whole <= most
    alike = np.where(mask.full(SIZE)[..., None], np.roll(textured()[:, : SIZE.width], 9, axis=1), source)
    assert uncovered(alike.astype(np.float32), bits)[0] == 0, "the surroundings look like that, too"


def test_a_fill_may_change_as_much_as_the_restless_places_beside_it() -> None:
    """A tree moves in a quarter of a picture that stands still: its continuation under the mask does not flicker."""
    random = np.random.default_rng(5)
    still = random.uniform(80, 160, (128, 160, 3)).astype(np.float32)
    mask = np.zeros((128, 160), np.bool_)
    mask[40:88, 56:104] = True
    tree = np.zeros((128, 160, 1), np.bool_)
    tree[:, 70:90] = True
    moved = np.where(tree, random.uniform(80, 160, still.shape), still).astype(np.float32)
    beside = change(still, moved, mask, mask)
    alone = change(still, np.where(mask[..., None], moved, still), mask, mask)
    assert beside is not None and beside.inside - beside.ring < 0.5
    assert alone is not None and alone.inside - alone.ring > 2


def test_a_step_counts_beyond_the_shifts_of_places_beside_it() -> None:
    """A light comes on over half of the picture: the half of the fill below it brightens as well."""
    rows = np.mgrid[0:128, 0:160][0][..., None]
    before = np.random.default_rng(6).uniform(80, 160, (128, 160, 3)).astype(np.float32)
    mask = np.zeros((128, 160), np.bool_)
    mask[60:100, 56:104] = True
    lit = (before + 20 * (rows > 64)).astype(np.float32)
    beside = change(before, lit, mask, mask)
    alone = change(before, (before + 20 * mask[..., None]).astype(np.float32), mask, mask)
    assert beside is not None and np.linalg.norm(beside.shift) < 4
    assert alone is not None and np.linalg.norm(alone.shift) > 25
