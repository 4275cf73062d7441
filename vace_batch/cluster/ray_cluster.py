"""The dispatcher's cluster on Ray: starts actors, calls them, and reads from Ray's errors how they died."""

from __future__ import annotations

from vace_batch.cluster.watch import Watch  # isort: skip  (first: it sets Ray's environment)

import concurrent.futures
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError

from vace_batch.cluster.calls import Order, Reply
from vace_batch.cluster.facts import Cause, Died, Ended, Fact, Leaving, Placed, SetUp, Started
from vace_batch.cluster.policy import Trouble
from vace_batch.cluster.units import PoolSpec
from vace_batch.cluster.worker import UnitCall, Worker

LATE_RESULTS_S = 10.0
"""Time for the results of a dead actor's earlier calls to arrive after the news of its death."""


@dataclass(slots=True)
class _Call:
    order: Order
    answer: concurrent.futures.Future[Any]
    payloads: list[Any]


@dataclass(slots=True)
class _Handle:
    pool: PoolSpec
    actor: Any
    node: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)


class RayCluster:
    """Actors on the Ray cluster that this process is connected to; after a loss, seen by `watch`, nothing calls Ray."""

    def __init__(
        self, watch: Watch, pools: Sequence[PoolSpec] = (), *, python_path: str | None = None, scales: bool = False
    ) -> None:
        self._watch_over_ray = watch
        self._python_path = python_path
        self._pools = {pool.name: pool for pool in pools}
        self._scales = scales
        self._worker = ray.remote(Worker)
        self._handles: dict[int, _Handle] = {}
        self._answers: queue.SimpleQueue[tuple[int, str, int, concurrent.futures.Future[Any]]] = queue.SimpleQueue()

    def now(self) -> float:
        return time.monotonic()

    def start(self, actor_id: int, pool: PoolSpec) -> None:
        actor = self._worker.options(
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            resources=dict(pool.resources) or None,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2 if pool.overlaps else 1,
            runtime_env={"env_vars": worker_environment(pool, self._python_path)},
        ).remote()
        self._handles[actor_id] = _Handle(pool, actor)
        self._watch(actor_id, "place", 0, actor.place.remote())

    def set_up(self, actor_id: int) -> None:
        handle = self._handles[actor_id]
        reference = handle.actor.set_up.remote(handle.pool.setup, dict(handle.pool.setup_args))
        self._watch(actor_id, "set_up", 0, reference)

    def submit(self, actor_id: int, order: Order) -> None:
        handle = self._handles[actor_id]
        self._watch(actor_id, "begin", order.call_id, handle.actor.begin.remote())
        unit_calls = [
            UnitCall(
                unit_id=item.unit.unit_id,
                payload=item.unit.payload,
                inputs=item.inputs,
                attempt=item.attempt,
                last_code=item.last_code,
            )
            for item in order.items
        ]
        answer, *payloads = handle.actor.work.options(num_returns=1 + len(unit_calls)).remote(order.fn, unit_calls)
        future = self._watch(actor_id, "work", order.call_id, answer)
        handle.calls[order.call_id] = _Call(order, future, payloads)

    def kill(self, actor_id: int) -> None:
        handle = self._handles.pop(actor_id, None)
        if handle is not None and self._watch_over_ray.loss is None:
            ray.kill(handle.actor, no_restart=True)

    def reserve(self, actors: Mapping[str, int]) -> None:
        """Ask Ray's autoscaler for all machines at once; for waiting actors alone it starts machines step by step."""
        if self._scales and self._watch_over_ray.loss is None:
            bundles = [bundle_of(self._pools[name]) for name, count in actors.items() for _ in range(count)]
            request_resources(bundles=bundles)

    def _leaving(self) -> list[Fact]:
        """Report the actors on draining nodes."""
        nodes = self._watch_over_ray.draining
        return [Leaving(actor_id=actor_id) for actor_id, handle in self._handles.items() if handle.node in nodes]

    def wait(self, timeout_s: float) -> list[Fact]:
        """Return the facts that come within `timeout_s`.

        Raises:
            LostError: Ray's head or this machine's raylet is lost.
        """
        self._watch_over_ray.check()
        facts = self._leaving()
        try:
            answers = [self._answers.get(timeout=timeout_s)]
        except queue.Empty:
            return facts
        while not self._answers.empty():
            answers.append(self._answers.get())
        for answer in answers:
            facts += self._facts(*answer)
        return facts

    def _watch(
        self, actor_id: int, method: str, call_id: int, reference: ray.ObjectRef[object]
    ) -> concurrent.futures.Future[Any]:
        """Queue a call's answer for the driver's thread. Ray's threads put answers into the queue, so no lock is
        needed."""
        future: concurrent.futures.Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._answers.put((actor_id, method, call_id, done)))
        return future

    def _facts(self, actor_id: int, method: str, call_id: int, future: concurrent.futures.Future[Any]) -> list[Fact]:
        handle = self._handles.get(actor_id)
        if handle is None:
            return []
        error = future.exception()
        if method == "begin":
            return [] if error else [Started(actor_id=actor_id, call_id=call_id)]
        if is_death(error) or (error is not None and method == "place"):
            return self._death(actor_id, handle, error)
        if method == "work":
            return self._ended(actor_id, handle)
        if method == "place":
            node, pid = future.result()
            handle.node = node
            return [Placed(actor_id=actor_id, node=node, pid=pid)]
        return [SetUp(actor_id=actor_id, error=str(error) if error else future.result())]

    def _death(self, actor_id: int, handle: _Handle, error: BaseException | None) -> list[Fact]:
        """Report the calls that a dead actor had finished, then its death."""
        answers = [call.answer for call in handle.calls.values()]
        deadline = time.monotonic() + LATE_RESULTS_S
        while concurrent.futures.wait(answers, timeout=0.5).not_done and time.monotonic() < deadline:
            self._watch_over_ray.check()
        facts = self._ended(actor_id, handle)
        self.kill(actor_id)
        return [*facts, Died(actor_id=actor_id, cause=cause_of_death(error), detail=detail_of_death(error))]

    def _ended(self, actor_id: int, handle: _Handle) -> list[Fact]:
        """Report the calls that have come back, in their order: Ray's threads may report a later one first."""
        facts: list[Fact] = []
        for call_id, call in list(handle.calls.items()):
            if not call.answer.done() or is_death(call.answer.exception()):
                break
            del handle.calls[call_id]
            facts.append(_answer(actor_id, call, handle.pool))
        return facts


def is_death(error: BaseException | None) -> bool:
    """Whether the error of a call means that its actor is gone.

    A `RayTaskError` never does, even one that also is a `RayActorError`: then the producer of an input has died.
    """
    return isinstance(error, RayActorError | OutOfMemoryError) and not isinstance(error, RayTaskError)


def cause_of_death(error: BaseException | None) -> Cause:
    """Tell why an actor died. Ray has no field for a dead node, only the sentence in its message tested here."""
    if isinstance(error, OutOfMemoryError):
        return "memory"
    if isinstance(error, ActorUnavailableError):
        return "unknown"
    if isinstance(error, RayActorError) and (error.preempted or "its node has died" in str(error)):
        return "machine"
    return "process"


def detail_of_death(error: BaseException | None) -> str:
    """Return Ray's explanation of a death in one line, without Ray's advice."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, OutOfMemoryError):
        return lines[0]
    if "connection error code 2" in lines[-1]:
        return "the process was killed, or crashed without a message"
    return lines[-1].split("exit detail:")[-1].split(" Some common causes")[0].strip()


def _answer(actor_id: int, call: _Call, pool: PoolSpec) -> Ended:
    error = call.answer.exception()
    if error is None:
        replies, broken = call.answer.result()
        return Ended(
            actor_id=actor_id,
            call_id=call.order.call_id,
            replies=replies,
            handles=tuple(call.payloads),
            broken=broken,
        )
    trouble = Trouble(
        code="internal_error",
        reason=f"the result could not be returned: {detail_of_death(error)}",
        traceback=getattr(error, "traceback_str", str(error)),
    )
    replies = (Reply(trouble=trouble, shared=True),) * len(call.order.items)
    return Ended(
        actor_id=actor_id,
        call_id=call.order.call_id,
        replies=replies,
        handles=tuple(call.payloads),
        broken=pool.overlaps,  # it may never have run, and its actor still waits for it
    )


def worker_environment(pool: PoolSpec, python_path: str | None) -> dict[str, str]:
    """Return the environment of a pool's processes, set before they import anything: threads pinned to the actor's
    CPUs."""
    threads = str(max(1, int(pool.num_cpus)))
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    environment = {f"{name}_NUM_THREADS": threads for name in names}
    environment["OPENCV_FOR_THREADS_NUM"] = threads
    if python_path:
        environment["PYTHONPATH"] = python_path
    return environment


def bundle_of(pool: PoolSpec) -> dict[str, float]:
    """Return the resources of one actor of a pool as a Ray bundle."""
    shares = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    return {name: share for name, share in shares.items() if share}
