"""Resizing: area means to shrink, and nothing done to an equal size."""

from __future__ import annotations

import numpy as np

from vace_batch.geometry import Size
from vace_batch.video.scaling import resize


def test_resize_leaves_equal_sizes_alone() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert resize(image, Size(4, 4)) is image


def test_shrinking_takes_the_mean_of_the_area() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, ::2] = 100
    np.testing.assert_array_equal(resize(image, Size(4, 2)), np.full((2, 4, 3), 50))


def test_enlarging_is_sharper_than_a_mean_and_keeps_plain_colours() -> None:
    plain = np.full((5, 7, 3), 93, np.uint8)
    np.testing.assert_array_equal(resize(plain, Size(70, 50)), np.full((50, 70, 3), 93))
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 200
    row = resize(edge, Size(32, 32))[16, :, 0].astype(int)
    assert row[0] == 0 and row.max() > 200, "Lanczos overshoots at an edge"
