"""A deployment on several nodes, triggered on a Prefect server, with a node lost in the middle; it takes minutes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.infra.versions import ROOT

CLIPS, WORKERS = 4, 3


@pytest.mark.slow
def test_a_batch_outlives_a_node_and_each_node_fetches_the_weights_once() -> None:
    with tempfile.TemporaryDirectory(prefix="nodes", dir="/tmp") as folder:
        command = [sys.executable, "-m", "tests.cluster.multi_node", str(Path(folder) / "f"), "--clips", str(CLIPS)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["counters"]["done"] == CLIPS
    assert report["a crashed run is continued"]
    assert len(set(report["weights fetched (bytes a GET)"])) == 1
    assert len(report["weights fetched (bytes a GET)"]) <= WORKERS, "two actors of a node fetch once"
    clips, windows = report["clips, windows when the node was killed"]
    assert clips < CLIPS and windows < report["windows"], "there was nothing left to lose"
