"""Faults on a real Ray: each row of `make chaos` with fewer windows, one random run of them, and the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import FAULTS, RANDOM, disk_full, may_mount, one, random_kills
from tests.chaos.equal_bytes import measure

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


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [True, False])
def test_kills_and_another_order_give_equal_bytes_or_windows_within_one_level(
    tmp_path: Path, deterministic: bool
) -> None:
    comparison = measure(tmp_path, deterministic=deterministic, rows=6, kills=2, seed=0)
    windows, videos = comparison.windows, comparison.videos
    assert comparison.killed and windows.compared == 14 and videos.compared == 6
    assert windows.levels <= 1
    if deterministic:
        assert (windows.equal, videos.equal) == (14, 6)
