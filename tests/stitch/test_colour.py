"""A fill takes colours and grain from its surroundings."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vace_batch.stitch.colour import Change, drift, grain


def test_drift_meets_the_ring_carries_its_colour_inwards_and_leaves_texture_out() -> None:
    y, x = np.mgrid[0:60, 0:80].astype(np.float32)
    known = np.ones((60, 80), np.bool_)
    known[15:45, 20:60] = False
    ramp = np.stack([x, y, np.full_like(x, -20)], axis=-1)
    fill = np.full_like(ramp, 7)
    assert np.abs(fill + drift(ramp, fill, known) - ramp).max() < 2
    checks = np.where((x + y) % 2, 30, -30).astype(np.float32)[..., None].repeat(3, axis=2)
    added = drift(checks + fill, fill, known)
    assert (added[known] == checks[known]).all() and np.abs(added[20:40, 25:55]).max() < 1
    assert not drift(ramp, fill, np.zeros_like(known)).any()


def test_a_fill_that_steps_at_the_border_is_met_within_it() -> None:
    """An autoencoder reproduces the known side exactly, and the generated side some levels off."""
    known = np.ones((60, 80), np.bool_)
    known[15:45, 20:60] = False
    source = np.full((60, 80, 3), 100, np.float32)
    fill = np.where(known[..., None], source, source + 12).astype(np.float32)
    assert np.abs(fill + drift(source, fill, known) - source).max() < 1


@pytest.mark.parametrize("size", [(3, 3), (1, 40), (37, 5), (90, 61)])
def test_drift_is_the_membrane_of_what_is_known(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    known = rng.random(size) < 0.1
    known[0, 0] = True
    source = rng.normal(0, 20, (*size, 3)).astype(np.float32)
    added = drift(source, np.zeros_like(source), known)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    bent = cv2.filter2D(added, -1, cross, borderType=cv2.BORDER_REPLICATE) - added
    assert (added[known] == source[known]).all() and np.abs(bent[~known]).max(initial=0) < 3


def test_a_smooth_fill_takes_on_the_sources_grain_and_no_more() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:80, 0:100].astype(np.float32)
    clean = np.stack([60 + x, 50 + y, 90 + (x > 50) * 60], axis=-1)
    noisy, before = (clean + rng.normal(0, 5, clean.shape).astype(np.float32) for _ in range(2))
    changed = np.zeros((80, 100), np.bool_)
    changed[20:60, 30:70] = True
    everywhere = np.ones_like(changed)
    change = Change(levels=noisy - before, known=everywhere)
    added = grain(noisy, clean, changed, change, seed=7)
    assert 4 < added[changed].std() < 6 and not added[~changed].any()
    assert (added == grain(noisy, clean, changed, change, seed=7)).all()
    assert not grain(noisy, noisy, changed, change, seed=7).any()
    half = clean + rng.normal(0, 3, clean.shape).astype(np.float32)
    both = half + grain(noisy, half, changed, change, seed=7)
    assert 4.5 < (both - clean)[changed].std() < 5.5, "noise adds up by its squares"
    assert not grain(clean, clean, changed, change, seed=7).any(), "what moves, but has no noise"
    stands_still = Change(levels=np.zeros_like(clean), known=everywhere)
    assert not grain(noisy, clean, changed, stands_still, seed=7).any(), "fine texture is no noise"
    assert not grain(noisy, clean, changed, Change(levels=noisy, known=~everywhere), seed=7).any()
