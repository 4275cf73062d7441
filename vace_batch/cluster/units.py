"""The vocabulary of a run: units of work, the pools that run them, their limits, outcomes and failures.

Nothing here imports Ray, so that worker functions may import it freely. A worker function is named as
`'package.module:function'` and is called in an actor as `fn(state, calls: list[Call]) -> list[Outcome]`, with one
outcome a call in the same order, or a `Finish`; `state` is the return value of the pool's setup function.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vace_batch.costs import Used
from vace_batch.errors import ClipError


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One piece of work: a step (`kind`) of the thing named by `key`. No two units of a run have the same kind and key.

    `inputs` are ids of units that run before this one and whose payloads are handed over; they must be known when this
    unit is added, and still needed or unfinished (add consumers at the latest in `Graph.on_done` of the producer).
    `leaves_bytes` is the estimated size of the payload that this unit leaves in the object store until all its
    consumers have ended. Units with equal `fn` and `batch_key` may share a call; a unit without a `batch_key` never
    shares one. Units of a higher `priority` (stage, priority of the job) start first. `time_limit_s` counts from the
    start of a run; a batch has the sum of its units' limits. `expected` is the predicted cost.
    """

    kind: str
    key: str
    pool: str
    fn: str
    payload: object = None
    inputs: tuple[str, ...] = ()
    leaves_bytes: int = 0
    batch_key: Hashable | None = None
    priority: tuple[int, int] = (0, 0)
    time_limit_s: float = 3600.0
    expected: Used = Used()

    @property
    def unit_id(self) -> str:
        return f"{self.kind}/{self.key}"

    def __post_init__(self) -> None:
        if ":" not in self.fn:
            raise ValueError(f"unit {self.unit_id}: fn must be 'package.module:function', got {self.fn!r}")
        if self.leaves_bytes < 0 or self.time_limit_s <= 0:
            raise ValueError(
                f"unit {self.unit_id}: expected leaves_bytes >= 0 and time_limit_s > 0, "
                f"got {self.leaves_bytes} and {self.time_limit_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One unit as its worker function sees it.

    `inputs` are the payloads in the order of `Unit.inputs`; arrays among them are read-only views of shared memory.
    `attempt` counts from 1; `last_code` is the failure code of the attempt before, so that a function can take a
    cheaper way after `out_of_memory`.
    """

    unit_id: str
    payload: object
    inputs: tuple[object, ...] = ()
    attempt: int = 1
    last_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer of a worker function for one call: `meta` (small) goes to the driver, `payload` to the object store.

    `error` concerns this unit alone; an exception raised by the function concerns the whole batch.
    """

    meta: object = None
    payload: object = None
    error: ClipError | None = None


Finish = Callable[[], Sequence[Outcome]]
"""A worker function may return a callable once it no longer needs the device; calling it finishes the work and returns
the outcomes. In a pool that `overlaps`, the next call runs beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The reason why a unit gave no result. Its text reads like a `ClipError`: `code: reason`.

    `code` is a `ClipError` code or one of `worker_died`, `timeout`, `out_of_memory`, `internal_error`, `machine_lost`,
    `storage_full`, `store_lost`; `reason` is a sentence for people.
    """

    code: str
    reason: str
    retryable: bool = True
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Problem):
    """The reason why a unit has ended without a result.

    `attempts` counts the runs that are charged to the unit; losses of machines are not among them. `caused_by` is the
    id of the input whose failure this one repeats.
    """

    unit_id: str
    attempts: int
    caused_by: str | None = None


class Graph(Protocol):
    """Adds units in the driver as others end. Either method is called exactly once a unit, all in one thread."""

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]: ...

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """A pool of equal warm actors.

    `setup` (`'package.module:function'`) is called once in each actor as `setup(**setup_args)`; its return value is the
    `state` of the worker functions. `num_cpus`, `num_gpus` and `resources` are per actor. At most `queue_depth` calls
    stand at an actor, one of them running. `setup_limit_s` counts from the moment the actor's process runs.

    With `overlaps`, a call of which only its `Finish` is left makes room for the next one.

    With `min_actors` the pool grows with its open units up to `num_actors`, and stops an actor that has been idle for
    `idle_s`; without, the pool always has `num_actors`.
    """

    name: str
    num_actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    setup: str | None = None
    setup_args: Mapping[str, object] = field(default_factory=dict)
    max_batch: int = 1
    queue_depth: int = 2
    overlaps: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    setup_limit_s: float = 1800.0
    min_actors: int | None = None
    idle_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.num_actors, self.max_batch, self.queue_depth) < 1:
            raise ValueError(
                f"pool {self.name}: num_actors, max_batch and queue_depth must be at least 1, "
                f"got {self.num_actors}, {self.max_batch} and {self.queue_depth}"
            )
        if self.min_actors is not None and not 0 <= self.min_actors <= self.num_actors:
            raise ValueError(f"pool {self.name}: expected min_actors in 0..{self.num_actors}, got {self.min_actors}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one run.

    `attempts`: runs charged to a unit before it fails. `losses`: runs lost to machines before a unit fails as
    `machine_lost`. `payload_bytes`: budget for payloads in the object store, payloads in the making included; one unit
    may exceed it if nothing else could go on. `drain_grace_s`: time for running units after a stop. `setup_failures`:
    actors of one pool that fail to start in a row before the run stops.
    """

    attempts: int = 3
    losses: int = 10
    payload_bytes: int = 2 << 30
    drain_grace_s: float = 30.0
    setup_failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counters of one run; `planned == done + failed + pending`. `retries` counts repeated runs."""

    planned: int
    done: int
    failed: int
    pending: int
    retries: int
    actor_deaths: int
    seconds: float
