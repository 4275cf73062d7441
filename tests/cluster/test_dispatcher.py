"""Whole runs of the dispatcher on a simulated cluster with random deaths of actors and machines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tests.support.simulated_cluster import RandomGraph, SimCluster
from vace_batch.cluster.dispatcher import Dispatcher
from vace_batch.cluster.events import ActorDied, ActorWaiting, Event, UnitDone, UnitFailed, UnitRan, UnitStarted
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Totals, Unit
from vace_batch.errors import ClusterError

BUDGET = 100
POOLS = (
    PoolSpec(name="cpu", num_actors=3),
    PoolSpec(name="gpu", num_actors=2, max_batch=4, queue_depth=3),
)
OVERLAPPING = (POOLS[0], replace(POOLS[1], overlaps=True))
WORDS = ["ok"] * 14 + ["poison", "bug", "clip-error", "storage-busy", "hang", "huge", "bad"]
CODES = {
    "poison": "worker_died",
    "bug": "internal_error",
    "clip-error": "no_video_track",
    "hang": "timeout",
    "huge": "out_of_memory",
    "bad": "bad_one",
}


def _unit(rng: random.Random, name: str, inputs: tuple[str, ...], words: list[str] = WORDS) -> Unit:
    pool = rng.choice(["cpu", "gpu"])
    return Unit(
        kind="any",
        key=name,
        pool=pool,
        fn=f"work:{rng.choice('ab')}",
        payload=rng.choice(words),
        inputs=inputs,
        leaves_bytes=rng.choice([0, 10, 30, 60, 120]),
        batch_key=rng.choice([None, "wide", "tall"]) if pool == "gpu" else None,
        priority=(0, rng.choice([0, 0, 0, 5])),
        time_limit_s=20.0,
    )


def _run(
    cluster: SimCluster,
    graph: RandomGraph,
    count: int,
    *,
    limits: Limits | None = None,
    pools: Iterable[PoolSpec] = POOLS,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[Totals, list[Event], Dispatcher]:
    events: list[Event] = []
    dispatcher = Dispatcher(pools, cluster)
    totals = dispatcher.run(
        graph,
        graph.first(count),
        limits=limits or Limits(payload_bytes=BUDGET, setup_failures=100),
        on_event=events.append,
        should_stop=should_stop or (lambda: _check_clock(cluster)),
    )
    return totals, events, dispatcher


def _check_clock(cluster: SimCluster) -> bool:
    assert cluster.now() < 20_000, "the run does not end"
    return False


def _check_ends(graph: RandomGraph, totals: Totals, cluster: SimCluster) -> None:
    assert set(graph.ends) == set(graph.units)
    assert set(graph.ends.values()) == {1}
    assert totals.planned == len(graph.units)
    assert totals.planned == totals.done + totals.failed
    assert totals.pending == 0
    assert totals.failed == len(graph.failures)
    for unit_id, failure in graph.failures.items():
        assert failure.attempts <= Limits().attempts
        if failure.caused_by is not None:
            assert failure.caused_by in graph.units
            assert failure.caused_by != unit_id
        else:
            assert failure.attempts <= cluster.blamable[unit_id]


@pytest.mark.parametrize("block", range(8))
def test_every_unit_ends_exactly_once_whatever_dies(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        cluster = SimCluster(seed, budget_bytes=BUDGET, deaths_per_s=random.Random(seed).choice([0.01, 0.05, 0.15]))
        graph = RandomGraph(seed, _unit)
        totals, events, _ = _run(cluster, graph, 16, pools=OVERLAPPING if seed % 2 else POOLS)
        _check_ends(graph, totals, cluster)
        assert len(cluster.payloads) == 0
        assert totals.actor_deaths == sum(isinstance(event, ActorDied) for event in events)
        done = [event.unit.unit_id for event in events if isinstance(event, UnitDone)]
        failed = [event.unit.unit_id for event in events if isinstance(event, UnitFailed)]
        assert len(done) == totals.done == len(set(done))
        assert len(failed) == totals.failed == len(set(failed))
        runs = [event for event in events if isinstance(event, UnitRan)]
        assert {run.unit.unit_id for run in runs if run.ok} >= set(done), "what a unit took is told"
        started = sum(isinstance(event, UnitStarted) for event in events)
        assert started - totals.retries <= len(runs) <= started and len(runs) >= totals.done


@pytest.mark.parametrize("pools", [POOLS, OVERLAPPING], ids=["", "overlapping"])
@pytest.mark.parametrize("seed", range(60))
def test_without_random_deaths_only_the_guilty_fail(seed: int, pools: tuple[PoolSpec, ...]) -> None:
    cluster = SimCluster(seed, budget_bytes=BUDGET)
    graph = RandomGraph(seed, _unit)
    totals, _, _ = _run(cluster, graph, 24, pools=pools)
    _check_ends(graph, totals, cluster)
    for unit_id, unit in graph.units.items():
        failure = graph.failures.get(unit_id)
        if failure is not None and failure.caused_by is not None:
            assert graph.units[failure.caused_by].payload in CODES
        else:
            assert (failure and failure.code) == CODES.get(str(unit.payload))


@pytest.mark.parametrize("seed", range(40))
def test_one_stage_of_payloads_never_exceeds_the_budget(seed: int) -> None:
    class TwoStages(RandomGraph):
        def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
            self.ends[unit.unit_id] += 1
            if unit.kind == "consumer":
                return []
            consumer = Unit(
                kind="consumer",
                key=unit.key,
                pool="gpu",
                fn="work:a",
                payload="ok",
                inputs=(unit.unit_id,),
            )
            self.units[consumer.unit_id] = consumer
            return [consumer]

    def producer(rng: random.Random, name: str, inputs: tuple[str, ...]) -> Unit:
        size = rng.randint(1, BUDGET)
        return Unit(kind="producer", key=name, pool="cpu", fn="work:a", payload="ok", leaves_bytes=size)

    cluster = SimCluster(seed, budget_bytes=BUDGET, deaths_per_s=0.05)
    graph = TwoStages(seed, producer)
    totals, _, _ = _run(cluster, graph, 30)
    assert cluster.over_budget == 0
    assert totals.pending == 0
    assert cluster.live_bytes() == 0


def test_payloads_and_records_are_gone_at_the_end() -> None:
    cluster = SimCluster(7, budget_bytes=BUDGET, deaths_per_s=0.1)
    graph = RandomGraph(7, _unit)
    _run(cluster, graph, 40)
    assert len(cluster.payloads) == 0


def test_a_large_payload_does_not_starve_behind_small_ones() -> None:
    """Later small payloads may not keep the budget from an earlier large one."""

    class Stream(RandomGraph):
        def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
            if unit.kind == "use" or unit.key == "large":
                return []
            number = len(self.units)
            inputs = (unit.unit_id,)
            follower = Unit(kind="use", key=str(number), pool="gpu", fn="work:a", payload="ok", inputs=inputs)
            following = [follower]
            self.units[follower.unit_id] = follower
            if number < 200:
                small = Unit(kind="small", key=str(number), pool="cpu", fn="work:a", payload="ok", leaves_bytes=30)
                self.units[small.unit_id] = small
                following.append(small)
            return following

        def first(self, count: int) -> list[Unit]:
            sizes = {f"first{i}": 30 for i in range(count)} | {"large": 95}
            units = [
                Unit(kind="small", key=name, pool="cpu", fn="work:a", payload="ok", leaves_bytes=size)
                for name, size in sizes.items()
            ]
            self.units = {unit.unit_id: unit for unit in units}
            return units

    cluster = SimCluster(3, budget_bytes=BUDGET)
    graph = Stream(3, _unit)
    totals, _, _ = _run(cluster, graph, 3)
    assert totals.pending == 0
    position = cluster.start_order.index("small/large")
    assert position < 8, "3 small producers and their consumers may go before it, not the stream behind"


def test_higher_priority_goes_first_and_equal_priority_in_order() -> None:
    pool = PoolSpec(name="cpu", num_actors=1)
    cluster = SimCluster(1, budget_bytes=BUDGET)

    def unit(rng: random.Random, name: str, inputs: tuple[str, ...]) -> Unit:
        number = int(name)
        return Unit(kind="any", key=name, pool="cpu", fn="work:a", payload="ok", priority=(0, number % 2))

    graph = RandomGraph(1, unit)
    graph.on_done = lambda unit, meta: []  # type: ignore[method-assign, assignment]
    _run(cluster, graph, 8, pools=[pool])
    order = [name for name in cluster.start_order if "." not in name]
    assert order[:8] == [f"any/{number}" for number in (1, 3, 5, 7, 9, 0, 2, 4)]


@pytest.mark.parametrize("seed", range(40))
def test_a_stop_drains_within_the_grace(seed: int) -> None:
    rng = random.Random(seed)
    cluster = SimCluster(seed, budget_bytes=BUDGET, deaths_per_s=0.05)
    graph = RandomGraph(seed, _unit)
    stop_at = rng.uniform(0.0, 12.0)
    limits = Limits(payload_bytes=BUDGET, drain_grace_s=2.0, setup_failures=100)
    totals, events, dispatcher = _run(cluster, graph, 24, limits=limits, should_stop=lambda: cluster.now() >= stop_at)
    assert totals.planned == totals.done + totals.failed + totals.pending
    assert totals.done + totals.failed == sum(graph.ends.values())
    assert totals.seconds <= stop_at + limits.drain_grace_s + 0.5
    assert all(not actor.unit_ids for actor in dispatcher.actors())
    assert len(cluster.payloads) == 0


def test_a_drain_lets_running_units_end_but_not_waiting_ones() -> None:
    pool = PoolSpec(name="cpu", num_actors=1)
    cluster = SimCluster(5, budget_bytes=BUDGET)
    graph = RandomGraph(5, lambda rng, name, inputs: _simple(name))
    graph.on_done = lambda unit, meta: []  # type: ignore[method-assign, assignment]
    started: list[str] = []
    dispatcher = Dispatcher([pool], cluster)

    def note(event: Event) -> None:
        if isinstance(event, UnitStarted):
            started.append(event.unit.key)

    polls_after_third = iter(range(10))
    totals = dispatcher.run(
        graph,
        graph.first(8),
        limits=Limits(),
        on_event=note,
        should_stop=lambda: len(started) == 3 and next(polls_after_third) > 0,
    )
    assert started == ["0", "1", "2"]
    assert (totals.done, totals.failed, totals.pending) == (3, 0, 7)


def test_warm_actors_serve_the_next_run() -> None:
    cluster = SimCluster(2, budget_bytes=BUDGET)
    dispatcher = Dispatcher(POOLS, cluster)
    for seed in (1, 2):
        graph = RandomGraph(seed, lambda rng, name, inputs: _simple(name, inputs))
        totals = dispatcher.run(
            graph, graph.first(10), limits=Limits(), on_event=lambda event: None, should_stop=lambda: False
        )
        assert totals.done == totals.planned
    assert len(cluster.actors) == 5


def test_a_setup_that_fails_three_times_in_a_row_stops_the_run() -> None:
    cluster = SimCluster(2, budget_bytes=BUDGET, failing_setups=range(1, 4))
    graph = RandomGraph(2, lambda rng, name, inputs: _simple(name, inputs))
    with pytest.raises(ClusterError, match=r"pool 'cpu': its actors cannot start \(3 failures in a row\): no weights"):
        _run(cluster, graph, 8, pools=[PoolSpec(name="cpu", num_actors=1)], limits=Limits())


def test_setups_that_fail_twice_in_a_row_are_only_a_delay() -> None:
    """Two fail, one succeeds and is killed by its unit, two more fail: never three in a row."""
    cluster = SimCluster(2, budget_bytes=BUDGET, failing_setups=(1, 2, 4, 5))
    graph = RandomGraph(2, lambda rng, name, inputs: replace(_simple(name), payload="poison"))
    pool = PoolSpec(name="cpu", num_actors=1)
    totals, events, _ = _run(cluster, graph, 1, pools=[pool], limits=Limits(attempts=2))
    assert totals.failed == totals.planned
    assert [event.cause for event in events if isinstance(event, ActorDied)][:5] == [
        "setup",
        "setup",
        "process",
        "setup",
        "setup",
    ]


def test_an_actor_that_finds_no_machine_is_reported_every_30_s() -> None:
    class Full(SimCluster):
        def start(self, actor_id: int, pool: PoolSpec) -> None:
            if pool.name == "cpu":
                super().start(actor_id, pool)

    cluster = Full(1, budget_bytes=BUDGET)
    graph = RandomGraph(1, lambda rng, name, inputs: _simple(name, pool="gpu"))
    pools = [PoolSpec(name="cpu"), PoolSpec(name="gpu", num_gpus=1)]
    _, events, _ = _run(cluster, graph, 1, pools=pools, should_stop=lambda: cluster.now() > 120)
    waiting = [event for event in events if isinstance(event, ActorWaiting)]
    assert [event.pool for event in waiting] == ["gpu"] * 3
    assert [event.seconds // 30 for event in waiting] == [1, 2, 3]


def test_an_error_in_the_graph_stops_the_run_and_frees_the_actors() -> None:
    class Broken(RandomGraph):
        def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
            raise RuntimeError("a bug in the graph")

        def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
            return []

    cluster = SimCluster(1, budget_bytes=BUDGET)
    graph = Broken(1, lambda rng, name, inputs: _simple(name, inputs))
    dispatcher = Dispatcher(POOLS, cluster)
    with pytest.raises(RuntimeError, match="a bug in the graph"):
        dispatcher.run(graph, graph.first(12), limits=Limits(), on_event=lambda event: None, should_stop=lambda: False)
    assert all(not actor.unit_ids for actor in dispatcher.actors())


def _simple(name: str, inputs: tuple[str, ...] = (), pool: str = "cpu") -> Unit:
    return Unit(kind="any", key=name, pool=pool, fn="work:a", payload="ok", inputs=inputs)
