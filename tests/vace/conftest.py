"""The embedded model and an engine on it, loaded once a module."""

import pytest
import torch

from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel, load


@pytest.fixture(scope="module")
def model() -> VaceModel:
    torch.set_num_threads(1)
    return load("tiny", device="cpu")


@pytest.fixture(scope="module")
def engine(model: VaceModel) -> VaceEngine:
    return VaceEngine(model)
