"""The context branch starts as nothing and learns from hints; short text equals 512 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.support.training_models import adapted, base, batch, forward
from vace_batch.vace.profiles import TEXT_TOKENS
from vace_batch.vace.training.flow_matching import (
    TrainingBatch,
    context_parameters,
    flow_loss,
    use_padded_text,
)
from vace_batch.vace.training.loop import Schedule, fit


def test_at_first_the_adapted_model_is_the_base_bit_for_bit() -> None:
    given = batch(np.random.default_rng(0))
    hinted = forward(
        adapted(),
        given,
        control_hidden_states=given.control_BCthw,
        control_hidden_states_scale=torch.ones(2),
    )
    assert torch.equal(hinted, forward(base(), given))
    assert hinted.std() > 0.1


def test_only_the_context_branch_learns_and_hints_make_the_loss_smaller(tmp_path: Path) -> None:
    model = adapted()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = context_parameters(model)
    fit(model, trained, batch, Schedule(steps=25, learning_rate=1e-2, warmup=3), tmp_path)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("vace_") for name in changed)
    assert {name for name in before if name.startswith("vace_blocks.0.proj_out")} <= changed
    held_out = batch(np.random.default_rng(9), count=32)
    with torch.no_grad():
        with_hints, without = (
            float(flow_loss(model, held_out, flow_shift=3.0, generator=torch.Generator().manual_seed(1), hints=scale))
            for scale in (1.0, 0.0)
        )
    assert with_hints < 0.9 * without


def test_short_text_is_what_512_rows_are() -> None:
    given = batch(np.random.default_rng(0))
    text = torch.cat([torch.randn(4, 3, 8), torch.zeros(4, 1, 8)], dim=1)
    whole = torch.cat([text, torch.zeros(4, TEXT_TOKENS - 4, 8)], dim=1)
    model = base()
    fields = {"latents_BCthw": given.latents_BCthw, "control_BCthw": given.control_BCthw}
    expected = forward(model, TrainingBatch(**fields, text_BLD=whole))
    assert not torch.allclose(expected, forward(model, TrainingBatch(**fields, text_BLD=text)), atol=1e-5)
    use_padded_text(model)
    torch.testing.assert_close(forward(model, TrainingBatch(**fields, text_BLD=text)), expected, atol=1e-5, rtol=1e-4)
