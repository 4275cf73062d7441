"""Faults on a real Ray: each row of `make chaos` with fewer windows, and one random run of them."""

from __future__ import annotations

import pytest

from tests.chaos.campaign import FAULTS, RANDOM, disk_full, may_mount, one, random_kills

SHORT = ("storage fails 10% of its calls",)


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_nothing_is_lost_or_done_twice(name: str) -> None:
    if FAULTS[name] is disk_full and not may_mount():
        pytest.skip("this process may not mount a file system of its own")
    one(name, FAULTS[name], windows=20)


def test_random_kills_and_a_poison_window() -> None:
    row = one(RANDOM, random_kills, windows=20, seed=1)
    assert row.lost == row.duplicated == 0
