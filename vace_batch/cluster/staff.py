"""The actors of all pools: starts missing ones, stops idle ones, and knows the calls of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from vace_batch.cluster.calls import Order
from vace_batch.cluster.facts import Cluster
from vace_batch.cluster.policy import Places, Spare, retired, wanted_actors
from vace_batch.cluster.units import PoolSpec


@dataclass(slots=True)
class Running:
    """A call at an actor. `since` is when the call came to the front, or, once it has `started`, when it started."""

    order: Order
    since: float
    started: bool = False


@dataclass(slots=True)
class Actor:
    """One actor. `since`: when its phase began, or when its last call ended. `leaving`: its machine goes away soon."""

    actor_id: int
    pool: PoolSpec
    since: float
    phase: Literal["placing", "setup", "ready"] = "placing"
    node: str = ""
    pid: int = 0
    waiting_told_s: float = 0.0
    leaving: bool = False
    calls: deque[Running] = field(default_factory=deque)

    @property
    def has_room(self) -> bool:
        """Whether a further call may be placed behind the calls of this actor."""
        alone = self.pool.overlaps and any(call.order.is_suspect for call in self.calls)
        return len(self.calls) < self.pool.queue_depth and not alone

    @property
    def running(self) -> list[Running]:
        """The first call, and in a pool that overlaps also the second, which may run beside the first's `Finish`."""
        return list(islice(self.calls, 2 if self.pool.overlaps else 1))

    @property
    def running_ids(self) -> tuple[str, ...]:
        return tuple(item.unit.unit_id for call in self.running for item in call.order.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorInfo:
    """A snapshot of one actor."""

    actor_id: int
    pool: str
    phase: str
    node: str
    pid: int
    unit_ids: tuple[str, ...]


@dataclass(slots=True)
class FreeActors:
    """The actors of one pool that can take a call: `idle` without any call, `roomy` behind a running one."""

    ready: int = 0
    idle: list[Actor] = field(default_factory=list)
    roomy: list[Actor] = field(default_factory=list)

    def places(self) -> Places:
        return Places(ready=self.ready, idle=len(self.idle), roomy=len(self.roomy))

    def add(self, actor: Actor) -> None:
        """Count an actor that is ready."""
        self.ready += 1
        if not actor.calls:
            self.idle.append(actor)
        elif actor.has_room:
            self.roomy.append(actor)

    def take(self) -> Actor:
        """Take out the actor for the next call; idle actors go first."""
        return (self.idle or self.roomy).pop(0)

    def put_back(self, actor: Actor) -> None:
        """Offer an actor for further calls after it was given one, if it has room."""
        if actor.has_room:
            self.roomy.append(actor)


class Staff:
    """Warm actors on a cluster, kept from one run to the next.

    `failed_starts` counts the actors of each pool that failed to start in a row.
    """

    def __init__(self, pools: Iterable[PoolSpec], cluster: Cluster) -> None:
        self.pools = {pool.name: pool for pool in pools}
        self.cluster = cluster
        self.actors: dict[int, Actor] = {}
        self.failed_starts: dict[str, int] = dict.fromkeys(self.pools, 0)
        self._next_actor_id = 0
        self._reserved: dict[str, int] = {}

    def adjust(self, needed: Callable[[str], int] = lambda pool: 0) -> None:
        """Start the actors that are missing, and stop actors that have been idle for long.

        `needed` gives the number of units of a pool that have not ended. An actor whose machine leaves is replaced at
        once.
        """
        wanted = {name: wanted_actors(pool, needed(name)) for name, pool in self.pools.items()}
        staying: dict[str, list[Actor]] = {name: [] for name in self.pools}
        for actor in self.actors.values():
            if not actor.leaving:
                staying[actor.pool.name].append(actor)
        self._reserve(wanted, staying)
        for name, pool in self.pools.items():
            for _ in range(wanted[name] - len(staying[name])):
                self._start(pool)
            if len(staying[name]) > wanted[name]:
                self._stop_idle(pool, staying[name], wanted[name])

    def _reserve(self, wanted: dict[str, int], staying: dict[str, list[Actor]]) -> None:
        """Ask for machines as long as any actor waits for one.

        An actor that is placed holds its machine. Were the request kept any longer, Ray's autoscaler would also keep an
        idle machine.
        """
        placed = {name: sum(actor.phase != "placing" for actor in actors) for name, actors in staying.items()}
        asked = wanted if any(placed[name] < wanted[name] for name in wanted) else {}
        if asked != self._reserved:
            self._reserved = asked
            self.cluster.reserve(asked)

    def _start(self, pool: PoolSpec) -> None:
        self._next_actor_id += 1
        self.actors[self._next_actor_id] = Actor(self._next_actor_id, pool, self.cluster.now())
        self.cluster.start(self._next_actor_id, pool)

    def _stop_idle(self, pool: PoolSpec, actors: list[Actor], wanted: int) -> None:
        now = self.cluster.now()
        idle = [Spare(actor_id=actor.actor_id, idle_s=now - actor.since) for actor in actors if not actor.calls]
        for actor_id in retired(pool, len(actors), wanted, idle):
            self.cluster.kill(actor_id)
            del self.actors[actor_id]

    def free_actors(self) -> dict[str, FreeActors]:
        """Return the actors of each pool that can take a call."""
        free = {name: FreeActors() for name in self.pools}
        for actor in self.actors.values():
            if actor.phase == "ready" and not actor.leaving:
                free[actor.pool.name].add(actor)
        return free

    def close(self) -> None:
        """Kill all actors."""
        for actor_id in self.actors:
            self.cluster.kill(actor_id)
        self.actors.clear()
        if self._reserved:
            self.cluster.reserve({})

    def infos(self) -> list[ActorInfo]:
        return [
            ActorInfo(
                actor_id=actor.actor_id,
                pool=actor.pool.name,
                phase=actor.phase,
                node=actor.node,
                pid=actor.pid,
                unit_ids=actor.running_ids,
            )
            for actor in self.actors.values()
        ]
