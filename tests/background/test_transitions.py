"""Scenes that change while they are hidden: a pixel lies between the moments before and after."""

from __future__ import annotations

import numpy as np
import pytest

from vace_batch.background.transitions import UNITS, Moment, between
from vace_batch.geometry import Box


def test_between_two_moments_lies_what_lies_between() -> None:
    seen = np.ones((20, 30), np.bool_)
    seen[5:15, 10:20] = False
    level = np.full((20, 30, 3), 100 * UNITS, np.uint16)
    whole = np.ones_like(seen)
    moments = [
        Moment(index=0, rgb_HW3=level, seen_HW=whole),
        Moment(index=2, rgb_HW3=level * 2, seen_HW=seen),
        Moment(index=10, rgb_HW3=level * 3, seen_HW=whole),
    ]
    rgb, known = between(moments, 4, Box(0, 0, 30, 20), ring_px=2)
    assert known.all()
    assert rgb[10, 15] == pytest.approx([180] * 3) and rgb[3, 15] == pytest.approx([180] * 3), "the ring is as old"
    assert rgb[0, 0] == pytest.approx([225] * 3)
    rgb, known = between(moments[:2], 4, Box(0, 0, 30, 20), ring_px=2)
    assert known.all() and rgb[10, 15] == pytest.approx([100] * 3)
    assert not between(moments[1:2], 4, Box(0, 0, 30, 20), ring_px=2)[1][10, 15]
