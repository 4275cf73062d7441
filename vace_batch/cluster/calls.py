"""Calls to actors: the order that goes out, the reply for each of its units, and the end of a unit that follows."""

from __future__ import annotations

from dataclasses import dataclass

from vace_batch.cluster.policy import SUSPECT, Trouble
from vace_batch.cluster.units import Failure, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One unit of a call, with the handles of its inputs."""

    unit: Unit
    inputs: tuple[object, ...]
    attempt: int
    last_code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call for an actor of `pool`. Behind an order that `is_suspect`, no other order is placed."""

    call_id: int
    pool: str
    fn: str
    items: tuple[Item, ...]

    @property
    def is_suspect(self) -> bool:
        return any(item.last_code in SUSPECT for item in self.items)

    @property
    def time_limit_s(self) -> float:
        return sum(item.unit.time_limit_s for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer of an actor for one unit of a call.

    A reply with `trouble` has no result; `shared` means that the trouble concerns the whole batch. `lost_inputs` are
    the positions of inputs whose payload could not be fetched; the unit was not run then. `cpu_s` and `num_bytes` are
    the processor time and the bytes written.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    num_bytes: int = 0
    meta: object = None
    has_payload: bool = False
    trouble: Trouble | None = None
    shared: bool = False
    lost_inputs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a unit: done with `meta`, or failed with `failure`."""

    unit: Unit
    meta: object = None
    failure: Failure | None = None
    seconds: float = 0.0
