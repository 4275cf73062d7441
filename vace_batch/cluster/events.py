"""Events of a run: actors that come and go, units that start and end."""

from __future__ import annotations

from dataclasses import dataclass

from vace_batch.cluster.units import Failure, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorReady:
    """An actor has finished its setup on the node with the id `node`."""

    pool: str
    actor_id: int
    seconds: float
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDied:
    """An actor is gone; `unit_ids` were running in it.

    `cause`: process, memory, machine or unknown for a lost actor; setup, timeout, broken or drain for a stopped one.
    """

    pool: str
    actor_id: int
    cause: str
    detail: str
    unit_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorWaiting:
    """An actor has been waiting for `seconds` for a machine with enough free CPUs, GPUs or resources; every 30 s."""

    pool: str
    actor_id: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStarted:
    """A unit has begun to run in an actor; `attempt` counts from 1."""

    unit: Unit
    actor_id: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRan:
    """One run of a unit is over; this event comes before any that follow from the run. `ok` means that the run gave a
    result, `meta`.

    `seconds` is the unit's share of its call's running time, `cpu_s` of the process's processor time, `num_bytes` of
    the files written.
    """

    unit: Unit
    ok: bool
    seconds: float
    cpu_s: float = 0.0
    num_bytes: int = 0
    meta: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """A unit has ended with a result. `seconds` is the unit's share of its call's running time."""

    unit: Unit
    meta: object
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailed:
    """A unit has ended without a result. `seconds` is the unit's share of its call's running time."""

    unit: Unit
    failure: Failure
    seconds: float


Event = ActorReady | ActorWaiting | ActorDied | UnitStarted | UnitRan | UnitDone | UnitFailed
