"""A run's metrics as Prometheus would read them; prints them. `python -m tests.support.metrics_on_ray PORT`

A program of its own, since a process can be connected to one Ray only.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request

os.environ["RAY_metrics_report_interval_ms"] = "500"

from vace_batch.cluster.events import ActorReady, UnitDone, UnitFailed, UnitStarted  # noqa: E402
from vace_batch.cluster.metrics import METRICS, Metrics  # noqa: E402
from vace_batch.cluster.units import Failure, Unit  # noqa: E402

import ray  # isort: skip # noqa: E402

PATIENCE_S = 300.0


def main(port: int) -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, log_to_driver=False)
    frames, clips = {"a": 33}, {"done": 0, "failed": 0, "skipped": 0}
    metrics = Metrics(frames, clips, clock=lambda: 1234.0)
    fn = "vace_batch.batch.workers:any"
    built = Unit(kind="build", key="a", pool="cpu", fn=fn, leaves_bytes=1000)
    waits = Unit(kind="build", key="b", pool="cpu", fn=fn, leaves_bytes=700)
    made = Unit(kind="generate", key="a", pool="gpu", fn=fn, inputs=("build/a",))
    lost = Unit(kind="generate", key="c", pool="gpu", fn=fn)
    failure = Failure(unit_id="generate/c", code="timeout", reason="", retryable=True, attempts=3)
    metrics.add(ActorReady(pool="gpu", actor_id=1, seconds=1.0))
    metrics.add(UnitDone(unit=built, meta=None, seconds=1.0))
    metrics.add(UnitDone(unit=waits, meta=None, seconds=1.0))
    metrics.add(UnitStarted(unit=made, actor_id=1, attempt=1))
    metrics.add(UnitStarted(unit=made, actor_id=1, attempt=2))
    metrics.add(UnitDone(unit=made, meta=None, seconds=2.5))
    measured = Unit(kind="measure", key="d", pool="cpu", fn=fn)
    metrics.add(UnitDone(unit=measured, meta={"verdict": "review"}, seconds=1.0))
    clips["failed"] = 2
    metrics.add(UnitFailed(unit=lost, failure=failure, seconds=1.0))
    print(json.dumps(exported(port)))
    ray.shutdown()


def exported(port: int) -> dict[str, float]:
    """Value by `name{own labels}`, once all names are there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = {}
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        except OSError:
            text = ""
        for line in text.splitlines():
            if line.startswith("ray_vace_batch"):
                name, _, rest = line.partition("{")
                labels = dict(part.split("=", 1) for part in rest.partition("}")[0].split(",") if "=" in part)
                own = [labels[tag].strip('"') for tag in ("status", "kind", "verdict") if tag in labels]
                found[" ".join([name, *own])] = float(line.rpartition(" ")[2])
        if {key.split(" ")[0] for key in found} >= {f"ray_{name}" for name in METRICS}:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {found}")
        time.sleep(0.5)


if __name__ == "__main__":
    main(int(sys.argv[1]))
