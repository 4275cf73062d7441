"""Fixtures of the masks' tests that take long to make."""

from __future__ import annotations

import pytest

from tests.support.small_sam2 import small_memory
from vace_batch.masks.segmenters.sam2_memory import Memory


@pytest.fixture(scope="session")
def memory() -> Memory:
    """SAM 2's memory, small and with random weights."""
    return small_memory()
