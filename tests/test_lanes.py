"""The lanes of pytest's workers: a file, or the folders that start Ray or Prefect; the longest come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lanes import FOLDERS, LONGEST_FIRST, lane, rank
from tests.support.s3_server import free_ports

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tests/integration/test_demo_run.py::test_a[x/y]", "tests/chaos/test_chaos.py::test_b"),
        ("tests/flows/test_nodes.py::test_a", "tests/flows/test_on_a_server.py::test_b"),
        ("tests/video/test_splice.py::test_a[a::b]", "tests/video/test_splice.py::test_b"),
    ],
)
def test_tests_of_one_lane_have_one_worker(one: str, other: str) -> None:
    assert lane(one) == lane(other) and rank(one) == rank(other)


def test_workers_look_for_ports_in_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        ports += free_ports(8)
    assert len(set(ports)) == 16


def test_other_files_are_lanes_of_their_own() -> None:
    files = [f"tests/{name}::test_a" for name in ("video/test_splice.py", "video/test_writer.py", "test_log.py")]
    files += [f"{folder}test_a.py::test_a" for folder in ("tests/integration/", "tests/flows/")]
    assert len({lane(file) for file in files}) == len(files)


def test_the_longest_lanes_come_first_and_each_named_place_exists() -> None:
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)
    assert all(name in FOLDERS.values() or (ROOT / name).exists() for name in LONGEST_FIRST)
    begins = ["tests/chaos/test_chaos.py::a", "tests/flows/test_nodes.py::a", "tests/docs/test_commands.py::a"]
    assert [rank(nodeid) for nodeid in [*begins, "tests/background/test_fill.py::a", "tests/test_log.py::a"]] == [
        *range(5)
    ]
