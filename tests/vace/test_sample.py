"""Sampling: noise, guidance and the forwards of each step."""

from __future__ import annotations

import torch

from tests.support.engine_windows import counting, relative, sampled, window
from vace_batch.vace.engine import VaceEngine


def test_guidance_outside_of_its_interval_costs_nothing(engine: VaceEngine) -> None:
    vcu = window(1, steps=8)
    with counting(engine.model.transformer) as calls:
        inside = engine.denoise([sampled(vcu, guidance_from=0.25, guidance_until=0.75)])
    assert len(calls) == 8 + 4
    whole = engine.denoise([vcu])
    unguided = engine.denoise([sampled(vcu, guidance_scale=1.0)])
    assert 0.001 < relative(inside, whole) < relative(unguided, whole)
    assert torch.equal(engine.denoise([sampled(vcu, guidance_from=0.5, guidance_until=0.5)]), unguided)
