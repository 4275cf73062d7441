"""A cluster in simulated time for the dispatcher's tests: actors, machines and payloads that die at random.

The cluster is also a referee: it fails the test when a call goes to an actor that is not ready, when payloads exceed
their budget while something else could go on, or when a unit gets an input that is not its own.
"""

from __future__ import annotations

import heapq
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from vace_batch.cluster.calls import Order, Reply
from vace_batch.cluster.facts import Cause, Died, Ended, Fact, Leaving, Placed, SetUp, Started
from vace_batch.cluster.policy import Trouble
from vace_batch.cluster.units import Failure, PoolSpec, Unit


@dataclass(slots=True, weakref_slot=True, eq=False)
class Payload:
    """A payload in the simulated object store; it is gone when nobody refers to it or its machine has died."""

    unit_id: str
    size_bytes: int
    node: str
    lost: bool = False


@dataclass(slots=True)
class SimActor:
    """One simulated actor."""

    pool: PoolSpec
    node: str
    ready: bool = False
    dead: bool = False
    leaving: bool = False
    queue: list[Order] = field(default_factory=list)
    started: int = 0
    on_device: Order | None = None


class SimCluster:
    """A cluster that obeys the payload of each unit: ok, poison, bug, clip-error, storage-busy, hang, huge or bad.

    `failing_setups` are ids of actors, which count from 1 in the order of their start.
    """

    def __init__(
        self,
        seed: int,
        *,
        budget_bytes: int,
        deaths_per_s: float = 0.0,
        failing_setups: Collection[int] = (),
        num_nodes: int = 3,
        notices_per_s: float = 0.0,
    ) -> None:
        self.random = random.Random(seed)
        self.budget_bytes = budget_bytes
        self.deaths_per_s = deaths_per_s
        self.failing_setups = failing_setups
        self.nodes = [f"node{number}" for number in range(num_nodes)]
        self.reserved: list[dict[str, int]] = []
        self.most: Counter[str] = Counter()
        self.clock = 0.0
        self.actors: dict[int, SimActor] = {}
        self.payloads: weakref.WeakSet[Payload] = weakref.WeakSet()
        self.blamable: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.start_order: list[str] = []
        self.over_budget = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._facts: list[Fact] = []
        self._ticket = itertools.count()
        self._notices_per_s = notices_per_s
        if notices_per_s:
            self._at(self.random.expovariate(notices_per_s), self._give_notice)

    def now(self) -> float:
        return self.clock

    def start(self, actor_id: int, pool: PoolSpec) -> None:
        actor = SimActor(pool, self.random.choice(self.nodes))
        self.actors[actor_id] = actor
        present = [other for other in self.actors.values() if other.pool is pool and not other.dead]
        staying = sum(not other.leaving for other in present)
        assert staying <= pool.num_actors, "more actors than the pool may have"
        self.most[pool.name] = max(self.most[pool.name], staying)
        self._after(self.random.uniform(0.1, 1.0), actor, lambda: self._post(Placed(actor_id=actor_id, node="", pid=1)))
        if self.deaths_per_s:
            self._after(self.random.expovariate(self.deaths_per_s), actor, lambda: self._die_at_random(actor_id))

    def set_up(self, actor_id: int) -> None:
        actor = self.actors[actor_id]
        failing = actor_id in self.failing_setups

        def end() -> None:
            actor.ready = not failing
            self._post(SetUp(actor_id=actor_id, error="no weights" if failing else None))

        self._after(self.random.uniform(0.1, 1.0), actor, end)

    def submit(self, actor_id: int, order: Order) -> None:
        actor = self.actors[actor_id]
        assert actor.ready, "a call went to an actor that is not ready"
        assert not actor.leaving, "a call went to a machine that leaves"
        assert order.pool == actor.pool.name
        assert len(actor.queue) < actor.pool.queue_depth
        assert len(order.items) <= actor.pool.max_batch
        for item in order.items:
            assert [payload.unit_id for payload in item.inputs] == list(item.unit.inputs)
        assert not actor.pool.overlaps or not any(call.is_suspect for call in actor.queue), "it was to be alone"
        assert not actor.pool.overlaps or not (order.is_suspect and actor.queue), "it was to be alone"
        actor.queue.append(order)
        others = [call for other in self.actors.values() if not other.dead for call in other.queue if call is not order]
        if self.live_bytes() > self.budget_bytes and any(item.unit.leaves_bytes for item in order.items):
            assert not others, "over the budget while other calls could free it"
            assert len(order.items) == 1
            self.over_budget += 1
        if not actor.dead:
            self._run_next(actor_id, actor)

    def live_bytes(self) -> int:
        """Bytes of payloads that exist or are being made."""
        being_made = sum(
            item.unit.leaves_bytes
            for actor in self.actors.values()
            if not actor.dead
            for order in actor.queue
            for item in order.items
        )
        return being_made + sum(payload.size_bytes for payload in self.payloads if not payload.lost)

    def kill(self, actor_id: int) -> None:
        actor = self.actors[actor_id]
        self.blamable.update(item.unit.unit_id for order in _running(actor) for item in order.items)
        actor.dead, actor.on_device = True, None
        actor.queue.clear()

    def wait(self, timeout_s: float) -> list[Fact]:
        until = self.clock + timeout_s
        while not self._facts and self._events and self._events[0][0] <= until:
            self.clock, _, happen = heapq.heappop(self._events)
            happen()
        if not self._facts:
            self.clock = until
        facts, self._facts = self._facts, []
        for fact in facts:
            if isinstance(fact, Leaving):
                self.actors[fact.actor_id].leaving = True
        return facts

    def reserve(self, actors: Mapping[str, int]) -> None:
        self.reserved.append(dict(actors))

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock + seconds, next(self._ticket), happen))

    def _give_notice(self) -> None:
        """Tell a machine's actors to leave; the machine goes a while later, and another replaces it at once."""
        node = self.nodes.pop(self.random.randrange(len(self.nodes)))
        self.nodes.append(f"node{next(self._ticket)}")
        for actor_id, actor in self.actors.items():
            if actor.node == node and not actor.dead:
                self._post(Leaving(actor_id=actor_id))
        self._at(self.random.uniform(0.1, 2.0), lambda: self._lose_machine(node))
        self._at(self.random.expovariate(self._notices_per_s), self._give_notice)

    def _lose_machine(self, node: str) -> None:
        for payload in self.payloads:
            payload.lost |= payload.node == node
        for actor_id, actor in self.actors.items():
            if actor.node == node and not actor.dead:
                self._die(actor_id, "machine")

    def _after(self, seconds: float, actor: SimActor, happen: Callable[[], None]) -> None:
        def unless_dead() -> None:
            if not actor.dead:
                happen()

        heapq.heappush(self._events, (self.clock + seconds, next(self._ticket), unless_dead))

    def _post(self, fact: Fact) -> None:
        self._facts.append(fact)

    def _run_next(self, actor_id: int, actor: SimActor) -> None:
        if actor.on_device or actor.started == len(actor.queue):
            return
        order = actor.queue[actor.started]
        alone = not actor.pool.overlaps
        if actor.started == (1 if alone else 2):
            return
        actor.started += 1
        actor.on_device = order
        does = [item.unit.payload for item in order.items]
        for item in order.items:
            self.runs[item.unit.unit_id] += 1
            self.start_order.append(item.unit.unit_id)
        instant_death = "poison" in does and self.random.random() < 0.3
        if not instant_death:
            self._post(Started(actor_id=actor_id, call_id=order.call_id))
        if "hang" in does:
            return
        seconds = self.random.uniform(0.1, 1.0)
        if "poison" in does and (alone or self.random.random() < 0.7):
            self._after(seconds, actor, lambda: self._die(actor_id, "process"))
        elif alone:
            self._after(seconds, actor, lambda: self._end(actor_id, actor))
        else:
            self._after(seconds, actor, lambda: self._leave_device(actor_id, actor))

    def _leave_device(self, actor_id: int, actor: SimActor) -> None:
        """Begin the rest of a call after the rest of the call before; the next call runs beside it."""
        order = actor.on_device
        if order is not actor.queue[0]:
            self._after(0.01, actor, lambda: self._leave_device(actor_id, actor))
            return
        actor.on_device = None
        does = [item.unit.payload for item in order.items]
        if "poison" in does:
            self._after(0.3, actor, lambda: self._die(actor_id, "process"))
        else:
            self._after(self.random.uniform(0.0, 0.6), actor, lambda: self._end(actor_id, actor))
        self._run_next(actor_id, actor)

    def _end(self, actor_id: int, actor: SimActor) -> None:
        order = actor.queue.pop(0)
        actor.started -= 1
        if actor.on_device is order:
            actor.on_device = None
        replies: list[Reply] = []
        handles: list[object] = []
        trouble = _trouble_of_batch(order)
        for item in order.items:
            lost = tuple(i for i, payload in enumerate(item.inputs) if payload.lost)
            own = _trouble_of_unit(item.unit, item.attempt)
            if lost:
                replies.append(Reply(lost_inputs=lost))
            elif trouble or own:
                self.blamable[item.unit.unit_id] += 1
                replies.append(Reply(trouble=trouble or own, shared=trouble is not None))
            else:
                replies.append(Reply(meta=item.unit.unit_id, has_payload=item.unit.leaves_bytes > 0))
            payload = Payload(item.unit.unit_id, item.unit.leaves_bytes, actor.node)
            if replies[-1].has_payload:
                self.payloads.add(payload)
            handles.append(payload)
        self._post(
            Ended(actor_id=actor_id, call_id=order.call_id, replies=tuple(replies), handles=tuple(handles)),
        )
        self._run_next(actor_id, actor)

    def _die_at_random(self, actor_id: int) -> None:
        cause: Cause = self.random.choice(["process", "memory", "machine", "unknown"])
        node = self.actors[actor_id].node
        if cause != "machine":
            self._die(actor_id, cause)
            return
        self._lose_machine(node)

    def _die(self, actor_id: int, cause: Cause) -> None:
        actor = self.actors[actor_id]
        if cause in ("process", "memory"):
            self.blamable.update(item.unit.unit_id for order in _running(actor) for item in order.items)
        actor.dead, actor.on_device = True, None
        actor.queue.clear()
        self._post(Died(actor_id=actor_id, cause=cause, detail="simulated"))


def _running(actor: SimActor) -> list[Order]:
    return actor.queue[: 2 if actor.pool.overlaps else 1]


def _trouble_of_batch(order: Order) -> Trouble | None:
    does = [item.unit.payload for item in order.items]
    if "bug" in does:
        return Trouble(code="internal_error", reason="a bug")
    if "clip-error" in does:
        return Trouble(code="no_video_track", reason="sound only", retryable=False)
    if "huge" in does:
        return Trouble(code="out_of_memory", reason="no room")
    return None


def _trouble_of_unit(unit: Unit, attempt: int) -> Trouble | None:
    if unit.payload == "bad":
        return Trouble(code="bad_one", reason="only this one", retryable=False)
    if unit.payload == "storage-busy" and attempt < 2:
        return Trouble(code="storage_busy", reason="try again", retryable=True)
    return None


class RandomGraph:
    """Adds units as others end, and counts the reported ends of each."""

    def __init__(self, seed: int, make: Callable[[random.Random, str, tuple[str, ...]], Unit]) -> None:
        self.random = random.Random(seed)
        self.make = make
        self.units: dict[str, Unit] = {}
        self.ends: Counter[str] = Counter()
        self.failures: dict[str, Failure] = {}

    def first(self, count: int) -> list[Unit]:
        units = [self._new(()) for _ in range(count)]
        joins = [
            self._new(tuple(unit.unit_id for unit in self.random.sample(units, self.random.randint(1, 3))))
            for _ in range(count // 4)
        ]
        return units + joins

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        assert meta == unit.unit_id
        self.ends[unit.unit_id] += 1
        if len(unit.key.split(".")) >= 3:
            return []
        return [self._new((unit.unit_id,), parent=unit.key) for _ in range(self.random.choice([0, 1, 1, 2]))]

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        assert failure.unit_id == unit.unit_id
        self.ends[unit.unit_id] += 1
        self.failures[unit.unit_id] = failure
        return [self._new((), parent=unit.key)] if self.random.random() < 0.1 and "." not in unit.key else []

    def _new(self, inputs: tuple[str, ...], parent: str | None = None) -> Unit:
        number = len(self.units)
        unit = self.make(self.random, f"{parent}.{number}" if parent else str(number), inputs)
        self.units[unit.unit_id] = unit
        return unit
