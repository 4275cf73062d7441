"""Compare the dispatcher's cost of a unit with Ray Data's, on the same rows and the same Ray.

    python benchmarks/dispatch.py [--rows 2000] [--rounds 3]

Both get rows of one number whose work is to return it, one row a call, on one warm actor of the same size: what is left
is the cost of handing work out. The time of a few rows is taken off each, since Ray Data starts its actor anew. Rounds
alternate, the quickest of each counts. The goal is at most 3 ms a unit.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from vace_batch.cluster.runtime import Runtime  # first: it quiets Ray before Ray is imported
from vace_batch.cluster.units import Call, Failure, Outcome, PoolSpec, Unit

import ray  # isort: skip
import ray.data  # isort: skip


FEW = 10


def answer(state: object, calls: list[Call]) -> list[Outcome]:
    return [Outcome(meta=call.payload) for call in calls]


class Answer:
    """The work of `answer`, as Ray Data calls it."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return row


class Count:
    def __init__(self) -> None:
        self.metas: list[object] = []

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        self.metas.append(meta)
        return ()

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        raise RuntimeError(failure.reason)


def own_s(runtime: Runtime, rows: int) -> float:
    graph = Count()
    fn = "benchmarks.dispatch:answer"
    begin = time.perf_counter()
    totals = runtime.run(graph, (Unit(kind="any", key=str(n), pool="cpu", fn=fn, payload=n) for n in range(rows)))
    seconds = time.perf_counter() - begin
    assert totals.done == rows and sorted(map(int, map(str, graph.metas))) == list(range(rows))
    return seconds


def peer_s(rows: int) -> float:
    """Time Ray Data on blocks of one row, as a unit fails alone."""
    begin = time.perf_counter()
    table = ray.data.from_items([{"n": n} for n in range(rows)], override_num_blocks=rows)
    done = table.map(Answer, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1).take_all()
    seconds = time.perf_counter() - begin
    assert sorted(row["n"] for row in done) == list(range(rows))
    return seconds


def main(
    rows: Annotated[int, typer.Option()] = 2000,
    rounds: Annotated[int, typer.Option()] = 3,
) -> None:
    """Run both in turn and print milliseconds a row."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    best: dict[str, float] = {}
    with Runtime([PoolSpec(name="cpu")]) as runtime:
        own_s(runtime, FEW)
        for _ in range(rounds):
            cpu = time.process_time()
            rounds_s = {"own_ms": own_s(runtime, rows) - own_s(runtime, FEW)}
            rounds_s["own_driver_cpu_ms"] = time.process_time() - cpu
            rounds_s["ray_data_ms"] = peer_s(rows) - peer_s(FEW)
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in rounds_s.items()}
    result = {name: round(1000 * seconds / (rows - FEW), 2) for name, seconds in best.items()}
    print(json.dumps({"rows": rows, **result, "ratio": round(best["own_ms"] / best["ray_data_ms"], 2)}))


if __name__ == "__main__":
    typer.run(main)
