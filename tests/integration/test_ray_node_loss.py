"""The dispatcher when a machine dies with the payloads that it holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_lost_machine_costs_reruns_but_no_attempts() -> None:
    command = [sys.executable, "-m", "tests.support.lose_a_node"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["sums"] == {str(number): number * 100_000 for number in range(4)}
    assert report["failures"] == {}
    assert report["totals"]["done"] == report["totals"]["planned"] == 8
    assert "machine" in report["causes"]
    made_again = [name for name, starts in report["starts"].items() if name.startswith("make/") and starts > 1]
    assert made_again, "payloads lost with the machine are made again"
    assert report["attempts"] == [1], "nobody is charged for a machine"
