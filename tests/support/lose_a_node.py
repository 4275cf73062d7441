"""Run while the machine that holds all payloads is lost; print the events as one JSON object.

A program of its own, since a process can be connected to one Ray cluster only: `python -m tests.support.lose_a_node`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from vace_batch.cluster.events import ActorDied, Event, UnitStarted
from vace_batch.cluster.runtime import Runtime  # first: it quiets Ray before Ray is imported
from vace_batch.cluster.units import Failure, PoolSpec, Unit

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

COUNT = 4
WORKERS = "tests.support.workers:"
POOLS = (
    PoolSpec(name="far", num_cpus=0, resources={"far": 1}),
    PoolSpec(name="near", num_cpus=0, resources={"near": 1}),
)


class Sums:
    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self.made = 0

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        if isinstance(meta, dict):
            self.sums[unit.key] = meta["sum"]
            return ()
        self.made += 1
        return ()

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        self.failures[unit.unit_id] = failure.reason
        return ()


def units() -> Iterable[Unit]:
    for number in range(COUNT):
        payload = {"size": 100_000, "value": number}
        make = Unit(
            kind="make", key=str(number), pool="far", fn=WORKERS + "make", payload=payload, leaves_bytes=800_000
        )
        yield make
        yield Unit(
            kind="sum",
            key=str(number),
            pool="near",
            fn=WORKERS + "add_up",
            payload={"sleep_s": 3.0 if number == 0 else 0.0},
            inputs=(make.unit_id,),
        )


def main(graceful: bool) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"near": 1}})
    far = [cluster.add_node(num_cpus=1, resources={"far": 1})]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    graph = Sums()
    starts: Counter[str] = Counter()
    attempts: set[int] = set()
    causes: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, ActorDied):
            causes.append(event.cause)
        if isinstance(event, UnitStarted):
            starts[event.unit.unit_id] += 1
            attempts.add(event.attempt)
        if far and graph.made == COUNT:
            cluster.remove_node(far.pop(), allow_graceful=graceful)
            cluster.add_node(num_cpus=1, resources={"far": 1})

    with Runtime(POOLS) as runtime:
        totals = runtime.run(graph, units(), on_event=note)
    ray.shutdown()
    cluster.shutdown()
    report = {"totals": asdict(totals), "sums": graph.sums, "failures": graph.failures, "causes": causes}
    print(json.dumps({**report, "starts": starts, "attempts": sorted(attempts)}))


if __name__ == "__main__":
    main(graceful="--kill" not in sys.argv)
