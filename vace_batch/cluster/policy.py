"""The dispatcher's decisions, as pure functions over frozen snapshots: who is blamed, who is next, how large a batch.

Rules learned by breaking them on Ray 2.60:

- An attempt is charged only to a unit that ran alone when its process died, hung or raised. Units that ran in a batch
  are split into smaller batches first, so that the guilty one is found and the others survive.
- Machines that die, drain or are preempted, and payloads that are lost with them, are nobody's fault.
- Payload bytes are budgeted from the moment their producer starts until their last consumer has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vace_batch.cluster.units import Failure, Limits, PoolSpec, Problem

SUSPECT = frozenset(("worker_died", "out_of_memory"))
"""What a call beside it may have brought upon a unit: from then on it stands at an actor alone, where calls overlap."""


class Blame(enum.Enum):
    """Whose fault a lost run is.

    DOUBT: the process died before it told that the unit had started, or with another call beside it. The first time
    nobody is charged, since an idle process may have died by itself; the second time the unit is.
    """

    UNIT = "unit"
    DOUBT = "doubt"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble(Problem):
    """Why one run of a unit gave no result, and whose fault that is."""

    blame: Blame = Blame.UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened to a unit so far; `batch_limit` is the largest batch that it may still join."""

    attempts: int = 0
    losses: int = 0
    doubts: int = 0
    batch_limit: int = 1
    last_code: str | None = None


def charge(
    unit_id: str, history: History, trouble: Trouble, *, batch_size: int, limits: Limits
) -> tuple[History, Failure | None]:
    """The unit's history after `trouble`, and its failure if that was the end; None means try again."""
    history = replace(history, last_code=trouble.code)
    if trouble.blame is Blame.NOBODY or (trouble.blame is Blame.DOUBT and history.doubts == 0):
        history = replace(
            history,
            losses=history.losses + 1,
            doubts=history.doubts + (trouble.blame is Blame.DOUBT),
        )
        if history.losses < limits.losses:
            return history, None
        reason = f"{history.losses} times the machine or its data was lost before this unit could end: {trouble.reason}"
        failure = Failure(unit_id=unit_id, code="machine_lost", reason=reason, attempts=history.attempts)
        return history, failure
    if batch_size > 1:
        return replace(history, batch_limit=(batch_size + 1) // 2), None
    history = replace(history, attempts=history.attempts + 1)
    if trouble.retryable and history.attempts < limits.attempts:
        return history, None
    reason = trouble.reason if history.attempts == 1 else f"{trouble.reason} ({history.attempts} attempts)"
    failure = Failure(
        unit_id=unit_id,
        code=trouble.code,
        reason=reason,
        retryable=trouble.retryable,
        attempts=history.attempts,
        traceback=trouble.traceback,
    )
    return history, failure


def inherited(unit_id: str, attempts: int, cause: Failure) -> Failure:
    """The failure of a unit whose input has failed: the same code and reason, and whose they are."""
    return Failure(
        unit_id=unit_id,
        code=cause.code,
        reason=cause.reason,
        retryable=cause.retryable,
        attempts=attempts,
        caused_by=cause.caused_by or cause.unit_id,
    )


def wanted_actors(pool: PoolSpec, needed_units: int) -> int:
    """How many actors a pool should have while so many of its units have not ended: one a batch, within its bounds."""
    if pool.min_actors is None:
        return pool.num_actors
    return max(pool.min_actors, min(pool.num_actors, -(-needed_units // pool.max_batch)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """An actor without a call that came first in its pool `since` seconds ago."""

    actor_id: int
    idle_s: float


def retired(pool: PoolSpec, present: int, wanted: int, idle: Iterable[Spare]) -> list[int]:
    """The actors to give back: those without work for longest, never more than are too many, and none that is warm yet.

    A short pause between two shards must not cost the loading of a model, so only what was idle for `idle_s` goes.
    """
    old = sorted((spare for spare in idle if spare.idle_s >= pool.idle_s), key=lambda spare: -spare.idle_s)
    return [spare.actor_id for spare in old[: max(0, present - wanted)]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where calls can go in one pool: ready actors, those with no call, and those with a call and room behind it."""

    ready: int = 0
    idle: int = 0
    roomy: int = 0


def startable(places: Places, *, queued: int, mates: int, batch_limit: int, alone: bool = False) -> bool:
    """Whether a call can be placed now.

    A place behind a running call is taken only while there is work for every actor, because what stands there cannot
    move to another actor that becomes idle; only by a full batch, because its mates may still come; and never by what
    must be `alone`.
    """
    return places.idle > 0 or (not alone and places.roomy > 0 and queued >= places.ready and mates >= batch_limit)


def batch_size(places: Places, *, mates: int, batch_limit: int) -> int:
    """How many of `mates` equal units go into the next call: shared out over idle actors before they are batched."""
    return max(1, min(batch_limit, -(-mates // max(1, places.idle))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first unit of a lane; a lane holds units of one pool, equally deep in the graph, that all cost bytes or none.

    `rank` sorts by stage, by priority, then by age; lower goes first. `depth` is the length of the longest chain of
    inputs.
    """

    lane: tuple[str, int, bool]
    rank: tuple[int, int, int]
    depth: int
    cost_bytes: int
    startable: bool


def choose(heads: Iterable[Head], *, held_bytes: int, budget_bytes: int, moving: bool) -> Head | None:
    """The head that starts next, or None to wait.

    A unit that does not fit into the budget blocks every later one that costs bytes and is no deeper than it, so it
    cannot starve; deeper ones may pass, since they consume what is held. When nothing is `moving` (no call is out) and
    every head is blocked, the deepest goes over the budget: waiting could not free anything.
    """
    blocked: list[Head] = []
    can_wait = moving
    for head in sorted(heads, key=lambda head: head.rank):
        if head.cost_bytes and (
            held_bytes + head.cost_bytes > budget_bytes or any(head.depth <= other.depth for other in blocked)
        ):
            blocked.append(head)
        elif head.startable:
            return head
        else:
            can_wait = True
    candidates = [] if can_wait else [head for head in blocked if head.startable]
    return min(candidates, key=lambda head: (-head.depth, head.rank), default=None)
