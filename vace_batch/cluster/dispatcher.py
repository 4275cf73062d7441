"""The dispatcher's loop over any cluster: keeps pools staffed, places calls, watches time limits and applies facts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from vace_batch.cluster.calls import Ending, Reply
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
from vace_batch.cluster.facts import Cause, Cluster, Died, Ended, Fact, Leaving, Placed, SetUp, Started
from vace_batch.cluster.policy import Blame, Trouble
from vace_batch.cluster.run_state import RunState
from vace_batch.cluster.staff import Actor, ActorInfo, Running, Staff
from vace_batch.cluster.units import Graph, Limits, PoolSpec, Totals, Unit
from vace_batch.errors import ClusterError

POLL_S = 0.2
TELL_WAITING_EVERY_S = 30.0


class Dispatcher:
    """Warm pools on a cluster, and the runs on them, one after the other."""

    def __init__(self, pools: Iterable[PoolSpec], cluster: Cluster) -> None:
        self._staff = Staff(pools, cluster)
        self._cluster = cluster

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
            ValueError: the graph adds an invalid unit (see `RunState.add`).
        """
        run = _Run(self._staff, graph, limits, on_event)
        begin = self._cluster.now()
        try:
            run.absorb(run.state.add(first_units))
            look_again_at = begin
            while run.state.open and not should_stop():
                if self._cluster.now() >= look_again_at:  # both go through all actors: too much to do after every fact
                    self._staff.adjust(run.state.needed)
                    run.enforce_limits()
                    look_again_at = self._cluster.now() + POLL_S
                run.feed()
                run.apply(self._cluster.wait(POLL_S))
            if run.state.open:
                run.drain()
        finally:
            run.abandon()
        return run.totals(self._cluster.now() - begin)

    def staff(self) -> None:
        """Start the actors that each pool keeps even without work."""
        self._staff.adjust()

    def close(self) -> None:
        """Kill all actors."""
        self._staff.close()

    def actors(self) -> list[ActorInfo]:
        return self._staff.infos()


class _Run:
    """One run: its state, changed by the facts of the cluster."""

    def __init__(self, staff: Staff, graph: Graph, limits: Limits, on_event: Callable[[Event], None]) -> None:
        self._staff = staff
        self._cluster = staff.cluster
        self._actors = staff.actors
        self._graph = graph
        self._limits = limits
        self._tell = on_event
        self._deaths = 0
        self._draining = False
        self.state = RunState(staff.pools, limits)

    def absorb(self, endings: list[Ending]) -> None:
        """Tell the graph of ended units, and take the units that it adds."""
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
        """Place calls at ready actors while units are ready to start."""
        free = self._staff.free_actors()
        while True:
            order = self.state.next_call({name: actors.places() for name, actors in free.items()})
            if order is None:
                return
            actor = free[order.pool].take()
            actor.calls.append(Running(order, self._cluster.now()))
            self._cluster.submit(actor.actor_id, order)
            free[order.pool].put_back(actor)

    def apply(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            actor = self._actors.get(fact.actor_id)
            if actor is None:
                continue
            self._apply(actor, fact)

    def _apply(self, actor: Actor, fact: Fact) -> None:
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

    def _leaves(self, actor: Actor) -> None:
        """Give an actor on a leaving machine no further work; its running call may end, if there is time."""
        actor.leaving = True
        if not actor.calls:
            self._remove(actor, "drain", "the actor's machine leaves", kill=True)

    def _placed(self, actor: Actor, fact: Placed) -> None:
        actor.phase = "setup"
        actor.since = self._cluster.now()
        actor.node = fact.node
        actor.pid = fact.pid
        self._cluster.set_up(actor.actor_id)

    def _set_up(self, actor: Actor, fact: SetUp) -> None:
        if fact.error is not None:
            self._remove(actor, "setup", fact.error, kill=True)
            self._start_failed(actor.pool, fact.error)
            return
        self._staff.failed_starts[actor.pool.name] = 0
        actor.phase = "ready"
        seconds = self._cluster.now() - actor.since
        actor.since += seconds
        self._tell(ActorReady(pool=actor.pool.name, actor_id=actor.actor_id, seconds=seconds, node=actor.node))

    def _start_failed(self, pool: PoolSpec, reason: str) -> None:
        self._staff.failed_starts[pool.name] += 1
        times = self._staff.failed_starts[pool.name]
        if times >= self._limits.setup_failures:
            self._staff.failed_starts[pool.name] = 0
            raise ClusterError(f"pool {pool.name!r}: its actors cannot start ({times} failures in a row): {reason}")

    def _started(self, actor: Actor, call_id: int) -> None:
        call = next((call for call in actor.calls if call.order.call_id == call_id), None)
        if call is None or call.started:
            return
        call.started, call.since = True, self._cluster.now()
        for item in call.order.items:
            self._tell(UnitStarted(unit=item.unit, actor_id=actor.actor_id, attempt=item.attempt))

    def _ended(self, actor: Actor, fact: Ended) -> None:
        if not actor.calls or actor.calls[0].order.call_id != fact.call_id:
            return
        self._started(actor, fact.call_id)
        order = actor.calls.popleft().order
        actor.since = self._cluster.now()
        if actor.calls:
            actor.calls[0].since = actor.since
        if fact.broken:
            self._give_back(self._remove(actor, "broken", "the actor's device is unusable after an error", kill=True))
        elif not (actor.calls and actor.calls[0].started):
            self._rest(actor)
        for item, reply in zip(order.items, fact.replies, strict=True):
            if not reply.lost_inputs:
                self._tell(_ran(item.unit, reply))
        self.absorb(self.state.finish(fact.call_id, fact.replies, fact.handles))

    def _rest(self, actor: Actor) -> None:
        """Remove an actor without a running call if its machine leaves, or if its next call must not start."""
        if actor.leaving or (self._draining and actor.calls):
            why = "the actor's machine leaves" if actor.leaving else "stopped before the next call"
            self._give_back(self._remove(actor, "drain", why, kill=True))

    def _died(self, actor: Actor, cause: Cause, detail: str) -> None:
        calls = self._remove(actor, cause, detail, kill=False)
        if actor.phase != "ready" and cause in ("process", "memory"):
            self._start_failed(actor.pool, detail)
        for call in calls:
            self._lose(call, _trouble_of_death(cause, call.started and len(calls) == 1, detail))

    def _remove(self, actor: Actor, cause: str, detail: str, *, kill: bool) -> list[Running]:
        """Forget an actor and return its running calls.

        Calls that wait behind them are given back uncharged.
        """
        if kill:
            self._cluster.kill(actor.actor_id)
        del self._actors[actor.actor_id]
        self._deaths += 1
        running = actor.running
        self._tell(
            ActorDied(
                pool=actor.pool.name,
                actor_id=actor.actor_id,
                cause=cause,
                detail=detail,
                unit_ids=actor.running_ids,
            )
        )
        self._give_back(list(actor.calls)[len(running) :])
        return running

    def _give_back(self, calls: Iterable[Running]) -> None:
        for call in calls:
            self._tell_lost(call)
            self.state.give_back(call.order.call_id)

    def _tell_lost(self, call: Running) -> None:
        """Report the time of a call that will never come back."""
        seconds = (self._cluster.now() - call.since) / len(call.order.items)
        for item in call.order.items if call.started else ():
            self._tell(UnitRan(unit=item.unit, ok=False, seconds=seconds))

    def _lose(self, call: Running, trouble: Trouble) -> None:
        self._tell_lost(call)
        seconds = self._cluster.now() - call.since
        self.absorb(self.state.lose(call.order.call_id, trouble, seconds))

    def enforce_limits(self) -> None:
        """Kill actors that exceed the time limit of a call or of their setup."""
        now = self._cluster.now()
        for actor in list(self._actors.values()):
            waited = now - actor.since
            if actor.calls and now - actor.calls[0].since > actor.calls[0].order.time_limit_s:
                limit_s = actor.calls[0].order.time_limit_s
                reason = f"the step did not end within its time limit of {limit_s:g} s (--unit-time-limit)"
                call, *others = self._remove(actor, "timeout", reason, kill=True)
                self._give_back(others)
                blame = Blame.UNIT if call.started else Blame.DOUBT
                self._lose(call, Trouble(code="timeout", reason=reason, blame=blame))
            elif actor.phase == "setup" and waited > actor.pool.setup_limit_s:
                reason = f"setup did not end within {actor.pool.setup_limit_s:g} s"
                self._remove(actor, "timeout", reason, kill=True)
                self._start_failed(actor.pool, reason)
            elif actor.phase == "placing" and waited > actor.waiting_told_s + TELL_WAITING_EVERY_S:
                actor.waiting_told_s = waited
                self._tell(ActorWaiting(pool=actor.pool.name, actor_id=actor.actor_id, seconds=waited))

    def drain(self) -> None:
        """Start nothing new, and let running calls end within the grace period."""
        self._draining = True
        deadline = self._cluster.now() + self._limits.drain_grace_s
        while any(actor.calls for actor in self._actors.values()) and self._cluster.now() < deadline:
            self.apply(self._cluster.wait(POLL_S))
            self.enforce_limits()

    def abandon(self) -> None:
        """Kill the actors that still have a call: no work of this run outlives it."""
        for actor in [actor for actor in self._actors.values() if actor.calls]:
            self._give_back(self._remove(actor, "drain", "stopped while a call ran", kill=True))

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
        reason = f"the worker process was killed because the machine ran out of memory: {detail}"
        return Trouble(code="out_of_memory", reason=reason, blame=blame)
    return Trouble(code="worker_died", reason=f"the worker process died while running the unit: {detail}", blame=blame)
