"""A deployment on nodes that share nothing but a store, one of which is lost in the middle; small enough for every day.

`python -m tests.support.multi_node` does it at any size, and compares the outputs with those of one machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.flows.server import SetUp, worker
from tests.support import s3_server
from tests.support.multi_node import cluster, counted, make_clips, triggered, upload

CLIPS, WORKERS = 8, 3


def test_a_batch_outlives_a_node_and_each_node_fetches_the_weights_once(set_up: SetUp) -> None:
    with tempfile.TemporaryDirectory(prefix="nodes", dir="/tmp") as name:
        folder = Path(name)  # short: Ray keeps sockets in it
        with s3_server.moto(folder) as endpoint, s3_server.bucket(endpoint) as bucket:
            upload(make_clips(folder, CLIPS), bucket)
            with cluster(folder) as machines:
                environment = machines.environment | {
                    name: set_up.environment[name] for name in ("PREFECT_API_URL", "PREFECT_HOME")
                }
                with worker(environment | {"RAY_ADDRESS": machines.address}, folder / "worker.log"):
                    report = triggered(folder, bucket, machines, environment, CLIPS)
            report |= counted(bucket, CLIPS)
    assert report["counters"]["done"] == CLIPS
    assert len(set(report["weights fetched (bytes a GET)"])) == 1
    assert len(report["weights fetched (bytes a GET)"]) <= WORKERS, "two actors of a node fetch once"
    clips, windows = report["clips, windows when the node was killed"]
    assert clips < CLIPS and windows < report["windows"], "there was nothing left to lose"
