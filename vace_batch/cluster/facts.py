"""The interface between the dispatcher and a cluster: orders go in, facts come out.

`Cluster` has two implementations: Ray (`ray_cluster.py`) and the simulated one of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from vace_batch.cluster.calls import Order, Reply
from vace_batch.cluster.units import PoolSpec

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
    """A call has begun to run. This fact may be missing, and may come before the end of the call ahead."""

    actor_id: int
    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A call has come back. The calls of one actor come back in their order.

    `broken` means that the actor cannot be used again (a dead CUDA context).
    """

    actor_id: int
    call_id: int
    replies: tuple[Reply, ...]
    handles: tuple[object, ...]
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """An actor is gone. The ends of its finished calls are reported before its death."""

    actor_id: int
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An actor's machine will be taken away soon, after a spot notice or because an autoscaler gives it back."""

    actor_id: int


Fact = Placed | SetUp | Started | Ended | Died | Leaving


class Cluster(Protocol):
    """Runs actors. All methods return at once but `wait`, which returns after `timeout_s` or with the first facts."""

    def now(self) -> float: ...

    def start(self, actor_id: int, pool: PoolSpec) -> None: ...

    def set_up(self, actor_id: int) -> None: ...

    def submit(self, actor_id: int, order: Order) -> None: ...

    def kill(self, actor_id: int) -> None: ...

    def wait(self, timeout_s: float) -> list[Fact]: ...

    def reserve(self, actors: Mapping[str, int]) -> None:
        """Ask for machines that hold this number of actors of each pool; replaces the earlier request."""
