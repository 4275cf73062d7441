"""Fixtures of the detectors' tests that take long to make."""

from __future__ import annotations

import pytest

from tests.support.small_yolo import Weights, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A narrow YOLO 11 and its export."""
    return build(tmp_path_factory.mktemp("weights"), "yolo11")


@pytest.fixture(scope="session")
def weights(built: Weights) -> str:
    return built[0]
