"""Pools that grow and shrink on a cluster whose machines Ray's own autoscaler starts and stops."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_pool_asks_for_machines_and_gives_them_back() -> None:
    # Ray's sockets lie in this folder, and their names may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "tests.support.grow_and_shrink", folder]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=840, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report == {
        "machines": {"at first": 0, "with much to do": 3, "at the tail": 1, "after the run": 0},
        "done": 13,
    }
