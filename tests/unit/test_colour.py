"""A fill takes colours and grain from its surroundings."""

from __future__ import annotations

import numpy as np

from vace_batch.colour import drift, grain


def test_drift_carries_the_rings_colour_inwards_and_leaves_texture_out() -> None:
    y, x = np.mgrid[0:60, 0:80].astype(np.float32)
    known = np.ones((60, 80), np.bool_)
    known[15:45, 20:60] = False
    ramp = np.stack([x, y, np.full_like(x, -20)], axis=-1)
    assert np.abs(drift(ramp, known) - ramp)[~known].max() < 2
    checks = np.where((x + y) % 2, 30, -30).astype(np.float32)[..., None].repeat(3, axis=2)
    assert np.abs(drift(checks, known)[~known]).max() < 3
    assert not drift(ramp, np.zeros_like(known)).any()


def test_a_smooth_fill_takes_on_the_sources_grain_and_no_more() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:80, 0:100].astype(np.float32)
    clean = np.stack([60 + x, 50 + y, 90 + (x > 50) * 60], axis=-1)
    noisy = clean + rng.normal(0, 5, clean.shape).astype(np.float32)
    changed = np.zeros((80, 100), np.bool_)
    changed[20:60, 30:70] = True
    added = grain(noisy, clean, changed, seed=7)
    assert 4 < added[changed].std() < 6 and not added[~changed].any()
    assert (added == grain(noisy, clean, changed, seed=7)).all()
    assert not grain(clean, clean, changed, seed=7).any()
    assert not grain(noisy, noisy, changed, seed=7).any()
