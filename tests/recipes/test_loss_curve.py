"""The picture of the losses."""

from __future__ import annotations

import numpy as np

from recipes.tiny_model.loss_curve import drawn


def test_a_curve_falls_where_losses_do() -> None:
    lines = [{"step": 0, "loss": 1.0, "start": 1.8}, {"step": 100, "loss": 0.4, "start": 0.5}]
    picture = drawn({"loss": 1.1, "start": 2.0}, lines)
    rows, columns = np.nonzero((picture == (180, 90, 20)).all(2) & (np.arange(len(picture)) > 100)[:, None])
    assert rows[columns.argmax()] > rows[columns.argmin()]
