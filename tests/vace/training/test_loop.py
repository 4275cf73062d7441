"""Training resumes exactly from its checkpoint, and only from its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.training_models import adapted, batch
from vace_batch.errors import UsageError
from vace_batch.vace.training.flow_matching import (
    TrainingBatch,
    context_parameters,
)
from vace_batch.vace.training.loop import Schedule, fit, trained_weights
from vace_batch.vace.training.lora import add_lora


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(directory: Path, interrupt: bool) -> dict[str, Tensor]:
        schedule = Schedule(steps=6, learning_rate=1e-3, warmup=2, checkpoint_every=3)
        stopped = []

        def batch_or_stop(generator: np.random.Generator) -> TrainingBatch:
            stopped.append(1)
            if interrupt and len(stopped) == 5:
                raise KeyboardInterrupt
            return batch(generator)

        model = adapted()
        try:
            fit(model, context_parameters(model), batch_or_stop, schedule, directory)
        except KeyboardInterrupt:
            again = adapted()
            assert len(fit(again, context_parameters(again), batch, schedule, directory)) == 3
        return trained_weights(directory)

    whole, resumed = run(tmp_path / "whole", False), run(tmp_path / "stopped", True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_schedule_or_other_parameters_are_not_gone_on_with(tmp_path: Path) -> None:
    model = adapted()
    fit(model, context_parameters(model), batch, Schedule(steps=1), tmp_path)
    with pytest.raises(UsageError, match="was written with"):
        fit(model, context_parameters(model), batch, Schedule(steps=2), tmp_path)
    with pytest.raises(UsageError, match="holds other parameters"):
        fit(model, add_lora(adapted(), 2), batch, Schedule(steps=1), tmp_path)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        trained_weights(tmp_path / "none")
