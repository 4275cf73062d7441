"""The dispatcher's decisions as pure functions over frozen snapshots: whom to blame, which unit to start, how large a
batch.

- An attempt is charged only to a unit that ran alone when its process died, hung or raised. Units that ran in a batch
  are split into smaller batches first, so that the guilty one is found and the others survive.
- Machines that die, drain or are preempted, and payloads that are lost with them, are nobody's fault.
- Payload bytes are budgeted from the moment their producer starts until their last consumer has ended.

Each rule was learned by breaking it on Ray 2.60.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vace_batch.cluster.units import Failure, Limits, PoolSpec, Problem

SUSPECT = frozenset(("worker_died", "out_of_memory"))
"""Failure codes that a call running beside the unit may have caused. Where calls overlap, the unit then runs alone."""


class Blame(enum.Enum):
    """Who is charged for a lost run.

    DOUBT: the process died before it reported that the unit had started, or with another call running beside the unit.
    The first time nobody is charged, since an idle process may have died by itself; the second time the unit is
    charged.
    """

    UNIT = "unit"
    DOUBT = "doubt"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble(Problem):
    """The reason why one run of a unit gave no result, and whom to blame for it."""

    blame: Blame = Blame.UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The earlier runs of a unit; `batch_limit` is the largest batch that the unit may still join."""

    attempts: int = 0
    losses: int = 0
    doubts: int = 0
    batch_limit: int = 1
    last_code: str | None = None


def charge(
    unit_id: str, history: History, trouble: Trouble, *, batch_size: int, limits: Limits
) -> tuple[History, Failure | None]:
    """Return the unit's history with `trouble` added, and its failure, or None if the unit is to be tried again."""
    history = replace(history, last_code=trouble.code)
    if trouble.blame is Blame.NOBODY or (trouble.blame is Blame.DOUBT and history.doubts == 0):
        history = replace(
            history,
            losses=history.losses + 1,
            doubts=history.doubts + (trouble.blame is Blame.DOUBT),
        )
        if history.losses < limits.losses:
            return history, None
        reason = f"the machine or its data was lost {history.losses} times before the unit could end: {trouble.reason}"
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
    """Make the failure of a unit whose input has failed: the same code and reason, with the input in `caused_by`."""
    return Failure(
        unit_id=unit_id,
        code=cause.code,
        reason=cause.reason,
        retryable=cause.retryable,
        attempts=attempts,
        caused_by=cause.caused_by or cause.unit_id,
    )


def wanted_actors(pool: PoolSpec, needed_units: int) -> int:
    """Return the size of a pool that has `needed_units` unended units: one actor a batch, within the pool's bounds."""
    if pool.min_actors is None:
        return pool.num_actors
    return max(pool.min_actors, min(pool.num_actors, -(-needed_units // pool.max_batch)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """An idle actor, and how long it has been idle."""

    actor_id: int
    idle_s: float


def retired(pool: PoolSpec, present: int, wanted: int, idle: Iterable[Spare]) -> list[int]:
    """Return the ids of idle actors to stop: longest idle first, idle for at least `pool.idle_s`, at most `present -
    wanted`.

    A short pause between two shards must not cost the loading of a model, hence `idle_s`.
    """
    old = sorted((spare for spare in idle if spare.idle_s >= pool.idle_s), key=lambda spare: -spare.idle_s)
    return [spare.actor_id for spare in old[: max(0, present - wanted)]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Free places for calls in one pool: `ready` actors, `idle` ones without a call, `roomy` ones with room behind a
    call."""

    ready: int = 0
    idle: int = 0
    roomy: int = 0


def startable(places: Places, *, queued: int, mates: int, batch_limit: int, alone: bool = False) -> bool:
    """Whether a call can be placed now.

    A place behind a running call is taken only while enough units are queued for every actor, because a call that
    stands there cannot move to another actor that becomes idle; only by a full batch, because its mates may still come;
    and never by a unit that must run `alone`.
    """
    return places.idle > 0 or (not alone and places.roomy > 0 and queued >= places.ready and mates >= batch_limit)


def batch_size(places: Places, *, mates: int, batch_limit: int) -> int:
    """Return the size of the next call: `mates` equal units are spread over idle actors before they are batched."""
    return max(1, min(batch_limit, -(-mates // max(1, places.idle))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first unit of a lane. A lane holds units of one pool and of equal depth, either all with a payload cost or
    all without.

    `rank` sorts by stage, by priority, then by age; lower goes first. `depth` is the length of the longest chain of
    inputs.
    """

    lane: tuple[str, int, bool]
    rank: tuple[int, int, int]
    depth: int
    cost_bytes: int
    startable: bool


def choose(heads: Iterable[Head], *, held_bytes: int, budget_bytes: int, moving: bool) -> Head | None:
    """Return the head that starts next, or None to wait.

    A unit that does not fit into the budget blocks every later unit that costs bytes and is no deeper, so it cannot
    starve; deeper units may pass, since they consume held payloads. When nothing is `moving` (no call is out) and every
    head is blocked, the deepest head goes over the budget: waiting could not free anything.
    """
    blocked: list[Head] = []
    can_wait = moving
    for head in sorted(heads, key=lambda head: head.rank):
        is_behind = any(head.depth <= other.depth for other in blocked)
        if head.cost_bytes and (is_behind or held_bytes + head.cost_bytes > budget_bytes):
            blocked.append(head)
        elif head.startable:
            return head
        else:
            can_wait = True
    return None if can_wait else _deepest(blocked)


def _deepest(blocked: Iterable[Head]) -> Head | None:
    """Return the deepest head that can start, the first by rank among equals."""
    return min((head for head in blocked if head.startable), key=lambda head: (-head.depth, head.rank), default=None)
