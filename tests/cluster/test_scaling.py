"""Pools that grow and shrink, and machines that are taken away with notice, on the simulated cluster."""

from __future__ import annotations

import random

import pytest

from tests.support.simulated_cluster import RandomGraph, SimCluster
from vace_batch.cluster.dispatcher import Dispatcher
from vace_batch.cluster.events import ActorDied, Event
from vace_batch.cluster.units import Limits, PoolSpec, Totals, Unit

BUDGET = 100
ELASTIC = (
    PoolSpec(name="cpu", num_actors=4, min_actors=0, idle_s=3.0),
    PoolSpec(name="gpu", num_actors=3, min_actors=1, idle_s=3.0, max_batch=4, queue_depth=3),
)


def _unit(rng: random.Random, name: str, inputs: tuple[str, ...]) -> Unit:
    pool = rng.choice(["cpu", "gpu"])
    return Unit(
        kind="any",
        key=name,
        pool=pool,
        fn="work:a",
        payload=rng.choice(["ok"] * 12 + ["poison", "hang", "storage-busy"]),
        inputs=inputs,
        leaves_bytes=rng.choice([0, 10, 60, 120]),
        batch_key=rng.choice([None, "wide"]) if pool == "gpu" else None,
        time_limit_s=20.0,
    )


def _run(cluster: SimCluster, graph: RandomGraph, count: int) -> tuple[Totals, list[Event], Dispatcher]:
    events: list[Event] = []
    dispatcher = Dispatcher(ELASTIC, cluster)
    limits = Limits(payload_bytes=BUDGET, setup_failures=100, losses=200)
    totals = dispatcher.run(
        graph, graph.first(count), limits=limits, on_event=events.append, should_stop=lambda: cluster.now() > 20_000
    )
    return totals, events, dispatcher


BLOCKS = [block if block < 4 else pytest.param(block, marks=pytest.mark.slow) for block in range(100)]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_unit_ends_once_whatever_leaves_or_dies(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        rates = random.Random(seed)
        cluster = SimCluster(
            seed,
            budget_bytes=BUDGET,
            deaths_per_s=rates.choice([0.0, 0.05]),
            notices_per_s=rates.choice([0.02, 0.1, 0.3]),
        )
        graph = RandomGraph(seed, _unit)
        totals, _, _ = _run(cluster, graph, 16)
        assert set(graph.ends) == set(graph.units) and set(graph.ends.values()) == {1}
        assert totals.planned == totals.done + totals.failed and totals.pending == 0
        for unit_id, failure in graph.failures.items():
            # A unit that hangs, or waits for a storage, may lose every machine under it before its time is up.
            slow = graph.units[failure.caused_by or unit_id].payload in ("hang", "storage-busy")
            assert failure.code != "machine_lost" or slow
            if failure.caused_by is None:
                assert failure.attempts <= cluster.blamable[unit_id]
        assert len(cluster.payloads) == 0


def test_a_pool_grows_with_its_work_and_gives_back_what_idles() -> None:
    cluster = SimCluster(1, budget_bytes=BUDGET)

    class Tail(RandomGraph):
        """Ten units at once, then one after the other."""

        def on_done(self, unit: Unit, meta: object) -> list[Unit]:
            self.ends[unit.unit_id] += 1
            last = len(self.units) == 10 + 40 or (len(self.units) >= 10 and sum(self.ends.values()) < 10)
            return [] if last else [self._new((), None)]

    graph = Tail(1, lambda rng, name, inputs: Unit(kind="any", key=name, pool="cpu", fn="a:b", payload="ok"))
    dispatcher = Dispatcher([ELASTIC[0]], cluster)
    units = [graph._new(()) for _ in range(10)]
    peaks: list[int] = []
    totals = dispatcher.run(
        graph,
        units,
        limits=Limits(),
        on_event=lambda event: peaks.append(len(dispatcher.actors())),
        should_stop=lambda: False,
    )
    assert totals.done == totals.planned == 50 and totals.actor_deaths == 0
    assert (max(peaks), peaks[-1]) == (4, 1), "four for ten units, one for the tail"
    assert cluster.reserved == [{"cpu": 4}, {}], "no machine is asked for once every actor has one"
    dispatcher.close()


def test_machines_that_were_asked_for_in_vain_are_given_back() -> None:
    cluster = SimCluster(1, budget_bytes=BUDGET)
    dispatcher = Dispatcher([ELASTIC[1]], cluster)
    dispatcher.staff()
    assert cluster.reserved == [{"gpu": 1}]
    dispatcher.close()
    assert cluster.reserved[-1] == {}


def test_warm_actors_wait_for_the_next_shard() -> None:
    cluster = SimCluster(2, budget_bytes=BUDGET)
    dispatcher = Dispatcher([PoolSpec(name="cpu", num_actors=3, min_actors=0, idle_s=60.0)], cluster)
    for shard in range(3):
        names = [f"{shard}-{number}" for number in range(9)]
        graph = RandomGraph(shard, _unit)
        graph.on_done = lambda unit, meta: []  # type: ignore[method-assign, assignment]
        units = [Unit(kind="any", key=name, pool="cpu", fn="a:b", payload="ok") for name in names]
        dispatcher.run(graph, units, limits=Limits(), on_event=lambda event: None, should_stop=lambda: False)
        cluster.clock += 10.0
    assert len(cluster.actors) == 3, "no actor was started twice"


def test_a_machine_with_notice_finishes_what_runs_and_gets_nothing_more() -> None:
    cluster = SimCluster(4, budget_bytes=BUDGET, notices_per_s=0.2)
    graph = RandomGraph(4, lambda rng, name, inputs: Unit(kind="any", key=name, pool="cpu", fn="a:b", payload="ok"))
    totals, events, _ = _run(cluster, graph, 40)
    causes = {event.cause for event in events if isinstance(event, ActorDied)}
    assert totals.failed == 0 and "drain" in causes and causes <= {"drain", "machine"}
