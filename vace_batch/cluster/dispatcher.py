"""The dispatcher's loop over any cluster: it staffs pools, places calls, watches time limits and applies what happened.

`Cluster` has two implementations: Ray (`ray_cluster.py`) and the simulated one of the tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

from vace_batch.cluster.events import (
    ActorDied,
    ActorReady,
    ActorWaiting,
    Event,
    UnitDone,
    UnitFailed,
    UnitRan,
    UnitStarted,
)
from vace_batch.cluster.policy import Blame, Places, Spare, Trouble, retired, wanted_actors
from vace_batch.cluster.run_state import Ending, Order, Reply, RunState
from vace_batch.cluster.units import Graph, Limits, PoolSpec, Totals, Unit
from vace_batch.errors import ClusterError

POLL_S = 0.2
TELL_WAITING_AFTER_S = 30.0

Cause = Literal["process", "memory", "machine", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An actor's process runs."""

    actor_id: int
    node: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """An actor's setup has ended; `error` holds its traceback if it raised."""

    actor_id: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A call has begun to run; may be missing, and may come before the end of the call ahead of it."""

    actor_id: int
    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A call has come back; the calls of one actor do in their order.

    `broken` says that the actor cannot be used again (a dead CUDA context).
    """

    actor_id: int
    call_id: int
    replies: tuple[Reply, ...]
    handles: tuple[object, ...]
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """An actor is gone. Facts about its calls that did end come before this one."""

    actor_id: int
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An actor's machine will be taken away soon: a spot notice, or an autoscaler that gives it back."""

    actor_id: int


Fact = Placed | SetUp | Started | Ended | Died | Leaving


class Cluster(Protocol):
    """Where actors live. All methods return at once but `wait`, which returns after `timeout_s` or the first facts."""

    def now(self) -> float: ...

    def start(self, actor_id: int, pool: PoolSpec) -> None: ...

    def set_up(self, actor_id: int) -> None: ...

    def submit(self, actor_id: int, order: Order) -> None: ...

    def kill(self, actor_id: int) -> None: ...

    def wait(self, timeout_s: float) -> list[Fact]: ...

    def reserve(self, actors: Mapping[str, int]) -> None:
        """Ask for machines that hold so many actors of each pool, in place of what was asked before."""


@dataclass(slots=True)
class _Running:
    order: Order
    since: float
    started: bool = False


@dataclass(slots=True)
class _Actor:
    actor_id: int
    pool: PoolSpec
    since: float
    phase: Literal["placing", "setup", "ready"] = "placing"
    node: str = ""
    pid: int = 0
    told_waiting: bool = False
    leaving: bool = False
    calls: deque[_Running] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorInfo:
    """One actor as it is now."""

    actor_id: int
    pool: str
    phase: str
    node: str
    pid: int
    unit_ids: tuple[str, ...]


class Dispatcher:
    """Warm pools on a cluster, and the runs that they do one after the other."""

    def __init__(self, pools: Iterable[PoolSpec], cluster: Cluster) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._cluster = cluster
        self._actors: dict[int, _Actor] = {}
        self._next_actor_id = 0
        self._failed_starts: dict[str, int] = dict.fromkeys(self._pools, 0)
        self._reserved: dict[str, int] = {}

    def run(
        self,
        graph: Graph,
        first_units: Iterable[Unit],
        *,
        limits: Limits,
        on_event: Callable[[Event], None],
        should_stop: Callable[[], bool],
    ) -> Totals:
        """Run the graph until every unit has ended, or until `should_stop()`; actors stay warm.

        Raises:
            ClusterError: the actors of a pool fail to start.
            ValueError: the graph adds a unit that cannot be (see `RunState.add`).
        """
        run = _Run(self, graph, limits, on_event)
        begin = self._cluster.now()
        try:
            run.absorb(run.state.add(first_units))
            look_again_at = begin
            while run.state.open and not should_stop():
                if self._cluster.now() >= look_again_at:  # both look at every actor, which is much after every fact
                    self.staff(run.state.needed)
                    run.enforce_limits()
                    look_again_at = self._cluster.now() + POLL_S
                run.feed()
                run.apply(self._cluster.wait(POLL_S))
            if run.state.open:
                run.drain()
        finally:
            run.abandon()
        return run.totals(self._cluster.now() - begin)

    def staff(self, needed: Callable[[str], int] = lambda pool: 0) -> None:
        """Start the actors that are missing, and give back those that have had no work for long.

        `needed` says how many units of a pool have not ended. What stands on a machine that leaves is replaced at once.
        """
        wanted = {name: wanted_actors(pool, needed(name)) for name, pool in self._pools.items()}
        staying: dict[str, list[_Actor]] = {name: [] for name in self._pools}
        for actor in self._actors.values():
            if not actor.leaving:
                staying[actor.pool.name].append(actor)
        # What is placed holds its machine. Asked for longer, Ray's autoscaler also keeps an idle one in its place.
        placed = {name: sum(actor.phase != "placing" for actor in actors) for name, actors in staying.items()}
        asked = wanted if any(placed[name] < wanted[name] for name in wanted) else {}
        if asked != self._reserved:
            self._reserved = asked
            self._cluster.reserve(asked)
        for name, pool in self._pools.items():
            for _ in range(wanted[name] - len(staying[name])):
                self._next_actor_id += 1
                self._actors[self._next_actor_id] = _Actor(self._next_actor_id, pool, self._cluster.now())
                self._cluster.start(self._next_actor_id, pool)
            if len(staying[name]) > wanted[name]:
                now = self._cluster.now()
                idle = [Spare(actor_id=a.actor_id, idle_s=now - a.since) for a in staying[name] if not a.calls]
                for actor_id in retired(pool, len(staying[name]), wanted[name], idle):
                    self._cluster.kill(actor_id)
                    del self._actors[actor_id]

    def close(self) -> None:
        """Kill all actors."""
        for actor_id in self._actors:
            self._cluster.kill(actor_id)
        self._actors.clear()
        if self._reserved:
            self._cluster.reserve({})

    def actors(self) -> list[ActorInfo]:
        return [
            ActorInfo(
                actor_id=actor.actor_id,
                pool=actor.pool.name,
                phase=actor.phase,
                node=actor.node,
                pid=actor.pid,
                unit_ids=_running_ids(actor),
            )
            for actor in self._actors.values()
        ]


def _has_room(actor: _Actor) -> bool:
    alone = actor.pool.overlaps and any(call.order.is_suspect for call in actor.calls)
    return len(actor.calls) < actor.pool.queue_depth and not alone


def _running(actor: _Actor) -> list[_Running]:
    """Its first call, and in a pool that overlaps the second, which may have started beside the first one's rest."""
    return list(islice(actor.calls, 2 if actor.pool.overlaps else 1))


def _running_ids(actor: _Actor) -> tuple[str, ...]:
    return tuple(item.unit.unit_id for call in _running(actor) for item in call.order.items)


class _Run:
    """One run: the state, and what the facts of the cluster mean for it."""

    def __init__(self, dispatcher: Dispatcher, graph: Graph, limits: Limits, on_event: Callable[[Event], None]) -> None:
        self._pools = dispatcher._pools
        self._cluster = dispatcher._cluster
        self._actors = dispatcher._actors
        self._failed_starts = dispatcher._failed_starts
        self._graph = graph
        self._limits = limits
        self._tell = on_event
        self._deaths = 0
        self._draining = False
        self.state = RunState(self._pools, limits)

    def absorb(self, endings: list[Ending]) -> None:
        """Tell the graph what has ended, and take the units that it adds."""
        queue = deque(endings)
        while queue:
            ending = queue.popleft()
            unit = ending.unit
            if ending.failure is None:
                self._tell(UnitDone(unit=unit, meta=ending.meta, seconds=ending.seconds))
                new = self._graph.on_done(unit, ending.meta)
            else:
                self._tell(UnitFailed(unit=unit, failure=ending.failure, seconds=ending.seconds))
                new = self._graph.on_failed(unit, ending.failure)
            queue.extend(self.state.add(new))
            self.state.settle(unit.unit_id)

    def feed(self) -> None:
        """Place calls at ready actors while the state has any to give."""
        idle: dict[str, list[_Actor]] = {name: [] for name in self._pools}
        roomy: dict[str, list[_Actor]] = {name: [] for name in self._pools}
        ready = dict.fromkeys(self._pools, 0)
        for actor in self._actors.values():
            if actor.phase == "ready" and not actor.leaving:
                ready[actor.pool.name] += 1
                if not actor.calls:
                    idle[actor.pool.name].append(actor)
                elif _has_room(actor):
                    roomy[actor.pool.name].append(actor)
        while True:
            places = {
                name: Places(ready=ready[name], idle=len(idle[name]), roomy=len(roomy[name])) for name in self._pools
            }
            order = self.state.next_call(places)
            if order is None:
                return
            shelf = idle[order.pool] or roomy[order.pool]
            actor = shelf.pop(0)
            actor.calls.append(_Running(order, self._cluster.now()))
            self._cluster.submit(actor.actor_id, order)
            if _has_room(actor):
                roomy[order.pool].append(actor)

    def apply(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            actor = self._actors.get(fact.actor_id)
            if actor is None:
                continue
            match fact:
                case Placed():
                    self._placed(actor, fact)
                case SetUp():
                    self._set_up(actor, fact)
                case Started():
                    self._started(actor, fact.call_id)
                case Ended():
                    self._ended(actor, fact)
                case Died():
                    self._died(actor, fact.cause, fact.detail)
                case Leaving():
                    self._leaves(actor)

    def _leaves(self, actor: _Actor) -> None:
        """It gets no more work; the call that runs may end, if its machine lives that long."""
        actor.leaving = True
        if not actor.calls:
            self._remove(actor, "drain", "its machine leaves", kill=True)

    def _placed(self, actor: _Actor, fact: Placed) -> None:
        actor.phase, actor.since, actor.node, actor.pid = "setup", self._cluster.now(), fact.node, fact.pid
        self._cluster.set_up(actor.actor_id)

    def _set_up(self, actor: _Actor, fact: SetUp) -> None:
        if fact.error is not None:
            self._remove(actor, "setup", fact.error, kill=True)
            self._start_failed(actor.pool, fact.error)
            return
        self._failed_starts[actor.pool.name] = 0
        actor.phase = "ready"
        seconds = self._cluster.now() - actor.since
        actor.since += seconds
        self._tell(ActorReady(pool=actor.pool.name, actor_id=actor.actor_id, seconds=seconds, node=actor.node))

    def _start_failed(self, pool: PoolSpec, reason: str) -> None:
        self._failed_starts[pool.name] += 1
        times = self._failed_starts[pool.name]
        if times >= self._limits.setup_failures:
            self._failed_starts[pool.name] = 0
            raise ClusterError(f"pool {pool.name!r}: its actors cannot start ({times} failures in a row): {reason}")

    def _started(self, actor: _Actor, call_id: int) -> None:
        call = next((call for call in actor.calls if call.order.call_id == call_id), None)
        if call is None or call.started:
            return
        call.started, call.since = True, self._cluster.now()
        for item in call.order.items:
            self._tell(UnitStarted(unit=item.unit, actor_id=actor.actor_id, attempt=item.attempt))

    def _ended(self, actor: _Actor, fact: Ended) -> None:
        if not actor.calls or actor.calls[0].order.call_id != fact.call_id:
            return
        self._started(actor, fact.call_id)
        order = actor.calls.popleft().order
        actor.since = self._cluster.now()
        if actor.calls:
            actor.calls[0].since = actor.since
        if fact.broken:
            self._give_back(self._remove(actor, "broken", "its device is unusable after an error", kill=True))
        elif not (actor.calls and actor.calls[0].started) and (actor.leaving or (self._draining and actor.calls)):
            why = "its machine leaves" if actor.leaving else "stopped before its next call"
            self._give_back(self._remove(actor, "drain", why, kill=True))
        for item, reply in zip(order.items, fact.replies, strict=True):
            if not reply.lost_inputs:
                self._tell(_ran(item.unit, reply))
        self.absorb(self.state.finish(fact.call_id, fact.replies, fact.handles))

    def _died(self, actor: _Actor, cause: Cause, detail: str) -> None:
        calls = self._remove(actor, cause, detail, kill=False)
        if actor.phase != "ready" and cause in ("process", "memory"):
            self._start_failed(actor.pool, detail)
        for call in calls:
            self._lose(call, _trouble_of_death(cause, call.started and len(calls) == 1, detail))

    def _remove(self, actor: _Actor, cause: str, detail: str, *, kill: bool) -> list[_Running]:
        """Forget an actor; what waited behind its running calls goes back uncharged. Returns those that ran."""
        if kill:
            self._cluster.kill(actor.actor_id)
        del self._actors[actor.actor_id]
        self._deaths += 1
        running = _running(actor)
        self._tell(
            ActorDied(
                pool=actor.pool.name,
                actor_id=actor.actor_id,
                cause=cause,
                detail=detail,
                unit_ids=_running_ids(actor),
            )
        )
        self._give_back(list(actor.calls)[len(running) :])
        return running

    def _give_back(self, calls: Iterable[_Running]) -> None:
        for call in calls:
            self._tell_lost(call)
            self.state.give_back(call.order.call_id)

    def _tell_lost(self, call: _Running) -> None:
        """What a call took that will never come back."""
        seconds = (self._cluster.now() - call.since) / len(call.order.items)
        for item in call.order.items if call.started else ():
            self._tell(UnitRan(unit=item.unit, ok=False, seconds=seconds))

    def _lose(self, call: _Running, trouble: Trouble) -> None:
        self._tell_lost(call)
        seconds = self._cluster.now() - call.since
        self.absorb(self.state.lose(call.order.call_id, trouble, seconds))

    def enforce_limits(self) -> None:
        """Kill actors whose call or setup has run out of time."""
        now = self._cluster.now()
        for actor in list(self._actors.values()):
            waited = now - actor.since
            if actor.calls and now - actor.calls[0].since > actor.calls[0].order.time_limit_s:
                limit_s = actor.calls[0].order.time_limit_s
                reason = f"it did not end within its time limit of {limit_s:g} s"
                call, *others = self._remove(actor, "timeout", reason, kill=True)
                self._give_back(others)
                blame = Blame.UNIT if call.started else Blame.DOUBT
                self._lose(call, Trouble(code="timeout", reason=reason, blame=blame))
            elif actor.phase == "setup" and waited > actor.pool.setup_limit_s:
                reason = f"setup did not end within {actor.pool.setup_limit_s:g} s"
                self._remove(actor, "timeout", reason, kill=True)
                self._start_failed(actor.pool, reason)
            elif actor.phase == "placing" and waited > TELL_WAITING_AFTER_S and not actor.told_waiting:
                actor.told_waiting = True
                self._tell(ActorWaiting(pool=actor.pool.name, actor_id=actor.actor_id, seconds=waited))

    def drain(self) -> None:
        """Start nothing new and let running calls end within the grace."""
        self._draining = True
        deadline = self._cluster.now() + self._limits.drain_grace_s
        while any(actor.calls for actor in self._actors.values()) and self._cluster.now() < deadline:
            self.apply(self._cluster.wait(POLL_S))
            self.enforce_limits()

    def abandon(self) -> None:
        """Kill the actors that still have a call: no work of this run outlives it."""
        for actor in [actor for actor in self._actors.values() if actor.calls]:
            self._give_back(self._remove(actor, "drain", "stopped while it ran", kill=True))

    def totals(self, seconds: float) -> Totals:
        state = self.state
        return Totals(
            planned=state.planned,
            done=state.done,
            failed=state.failed,
            pending=state.open,
            retries=state.retries,
            actor_deaths=self._deaths,
            seconds=seconds,
        )


def _ran(unit: Unit, reply: Reply) -> UnitRan:
    return UnitRan(
        unit=unit,
        ok=reply.trouble is None,
        seconds=reply.seconds,
        cpu_s=reply.cpu_s,
        num_bytes=reply.num_bytes,
        meta=reply.meta,
    )


def _trouble_of_death(cause: Cause, started: bool, detail: str) -> Trouble:
    if cause in ("machine", "unknown"):
        return Trouble(code="machine_lost", reason=detail, blame=Blame.NOBODY)
    blame = Blame.UNIT if started else Blame.DOUBT
    if cause == "memory":
        reason = f"its process was killed because the machine ran out of memory: {detail}"
        return Trouble(code="out_of_memory", reason=reason, blame=blame)
    return Trouble(code="worker_died", reason=f"its worker process died while it ran: {detail}", blame=blame)
