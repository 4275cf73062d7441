"""Test that no shard blocks another: shards one after the other on warm pools, and many owners within one run."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.support.simulated_cluster import RandomGraph, SimCluster
from vace_batch.cluster.calls import Order
from vace_batch.cluster.dispatcher import Dispatcher
from vace_batch.cluster.events import Event
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Totals, Unit

BUDGET = 100
POOLS = (
    PoolSpec(name="cpu", num_actors=2, min_actors=1, idle_s=3.0),
    PoolSpec(name="gpu", num_actors=2, max_batch=4, queue_depth=2),
)
LIMITS = Limits(payload_bytes=BUDGET, setup_failures=100, losses=50)
TIME_LIMIT_S = 20.0

BLOCKS = [block if block < 2 else pytest.param(block, marks=pytest.mark.slow) for block in range(50)]


def _shard(graph: RandomGraph, cluster: SimCluster, dispatcher: Dispatcher, units: Iterable[Unit]) -> Totals:
    def on_event(event: Event) -> None: ...

    return dispatcher.run(graph, units, limits=LIMITS, on_event=on_event, should_stop=lambda: cluster.now() > 20_000)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_shard_that_kills_and_hangs_delays_the_next_but_never_keeps_it_from_its_end(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        rates = random.Random(seed)
        cluster = SimCluster(
            seed, budget_bytes=BUDGET, deaths_per_s=rates.choice([0.0, 0.05]), notices_per_s=rates.choice([0.0, 0.05])
        )
        dispatcher = Dispatcher(POOLS, cluster)
        for shard in range(3):
            bad = ["poison", "hang", "huge", "bad"] if shard == 0 else []
            does = rates.choice([["ok"], ["ok"] * 4 + bad, [*bad, "ok"]])

            def make(rng: random.Random, name: str, inputs: tuple[str, ...], does: list[str] = does) -> Unit:
                pool = rng.choice(["cpu", "gpu"])
                more = {"batch_key": "wide"} if pool == "gpu" else {}
                cost = rng.choice([0, 10, 60])
                return Unit(
                    kind="any", key=name, pool=pool, fn="work:a", payload=rng.choice(does), inputs=inputs,
                    leaves_bytes=cost, time_limit_s=TIME_LIMIT_S, **more,  # type: ignore[arg-type]
                )  # fmt: skip

            graph = RandomGraph(seed + shard, make)
            begin = cluster.now()
            cluster.start_order.clear()
            totals = _shard(graph, cluster, dispatcher, graph.first(8))
            assert totals.pending == 0 and set(graph.ends.values()) == {1} and set(graph.ends) == set(graph.units)
            assert set(cluster.start_order) <= set(graph.units), "nothing of an earlier shard is still run"
            # Each unit takes its time limit at most, in three attempts and what dies under it; no shard waits for ever.
            assert cluster.now() - begin < TIME_LIMIT_S * 60
            if shard and not cluster.deaths_per_s:
                guilty = {name for name, failure in graph.failures.items() if failure.code != "machine_lost"}
                assert not guilty, "a shard inherits nothing of the shard before"


class Stream(RandomGraph):
    """Several owners; each unit adds further ones, so the first owner alone could keep every actor busy for long."""

    def __init__(self, seed: int, owners: int, follow: int) -> None:
        super().__init__(seed, _work)
        self.age: dict[str, int] = {}
        self._follow = follow
        self._owners = owners

    def first(self, count: int) -> list[Unit]:
        return [self._next(f"{owner}-{number}") for owner in range(self._owners) for number in range(count)]

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        self.ends[unit.unit_id] += 1
        greedy = unit.key.startswith("0") and len(self.units) < 400
        return [self._next(f"{unit.key}.{number}") for number in range(self._follow if greedy else 0)]

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        raise AssertionError(failure)

    def _next(self, name: str) -> Unit:
        unit = self.make(self.random, name, ())
        self.age[unit.unit_id] = len(self.age)
        self.units[unit.unit_id] = unit
        return unit


def _work(rng: random.Random, name: str, inputs: tuple[str, ...]) -> Unit:
    key = rng.choice([None, "wide", "narrow"])
    cost = rng.choice([0, 0, 30])
    return Unit(kind="any", key=name, pool="gpu", fn="work:a", payload="ok", batch_key=key, leaves_bytes=cost)


class CallsSeen(SimCluster):
    """Remembers the units of each call, in order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, budget_bytes=BUDGET)
        self.calls: list[list[str]] = []

    def submit(self, actor_id: int, order: Order) -> None:
        self.calls.append([item.unit.unit_id for item in order.items])
        super().submit(actor_id, order)


@pytest.mark.parametrize("seed", range(30))
def test_however_much_an_owner_adds_what_came_before_goes_before(seed: int) -> None:
    """Test that nearly all calls placed before a unit's call run older units: a unit waits only for older units.

    A unit that leaves a payload also waits for room, and lets units without a payload pass: both kinds are counted
    apart. The exceptions: a place behind a running call needs a full batch.
    """
    cluster = CallsSeen(seed)
    graph = Stream(seed, owners=4, follow=3)
    pool = PoolSpec(name="gpu", num_actors=3, max_batch=4, queue_depth=2)
    totals = _shard(graph, cluster, Dispatcher([pool], cluster), graph.first(6))
    assert totals.pending == totals.failed == 0 and totals.done > 300
    oldest: dict[bool, list[int]] = {True: [], False: []}
    for call in cluster.calls:
        ages = [graph.age[name] for name in call]
        before = oldest[graph.units[call[0]].leaves_bytes > 0]
        assert all(sum(other > age for other in before) <= pool.num_actors for age in ages)
        before.append(min(ages))
