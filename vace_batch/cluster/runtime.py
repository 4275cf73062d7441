"""Ray under the dispatcher: starts or joins a cluster, keeps warm pools, and turns Ray's answers into facts.

Facts about Ray 2.60 that this relies on, each seen by breaking it:

- A payload outlives the actor that made it (the driver owns it); it is lost only with its node. A worker that fetches a
  lost one gets `ObjectReconstructionFailedError` as soon as the node is marked dead: 15 s after a killed raylet.
- When a raylet dies, its actors' calls fail after 2 s with `ActorUnavailableError`, before the node is dead to Ray.
- `ray.cancel` does not stop a call that stands in the queue of a busy actor, so waiting calls are dropped by killing.
- `ray.kill` fails the calls of a stopped process at once; the process itself is killed by the raylet 5-10 s later.
- A local Ray dies with its driver, `kill -9` included.
- With `log_to_driver=False` Ray still prints raylet errors on standard output, unless its deduplicator skips them.
- Results of two calls of one actor may be reported in either order, since Ray calls back from several threads.
- A process that ends at once may never have its earlier, tiny answer delivered: see `Blame.DOUBT`.
- `ray.init` replaces the SIGTERM handler of the main thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")

import concurrent.futures
import contextlib
import math
import queue
import signal
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError

from vace_batch.cluster.actors import Work, Worker
from vace_batch.cluster.board import Order, Reply
from vace_batch.cluster.dispatch import Trouble
from vace_batch.cluster.loop import ActorInfo, Cause, Died, Dispatcher, Ended, Fact, Leaving, Placed, SetUp, Started
from vace_batch.cluster.units import Event, Graph, Limits, PoolSpec, Totals, Unit
from vace_batch.errors import ClusterError, UsageError

LOOK_FOR_DRAINS_S = 2.0
"""A spot notice gives two minutes at the best of providers, 30 s at others."""

SETTLE_S = 10.0
"""How long the results of a dead actor's earlier calls may take to arrive after the news of its death."""


START_TRIES = 5
"""Ray gives its own start 30 s, which is too short on a machine that is busy with something else."""


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
    """Actors on the Ray cluster that this process is connected to."""

    def __init__(self, python_path: str | None, pools: Sequence[PoolSpec] = (), *, scales: bool = False) -> None:
        self._python_path = python_path
        self._pools = {pool.name: pool for pool in pools}
        self._scales = scales
        self._looked_at = 0.0
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
        works = [
            Work(
                unit_id=item.unit.unit_id,
                payload=item.unit.payload,
                inputs=item.inputs,
                attempt=item.attempt,
                last_code=item.last_code,
            )
            for item in order.items
        ]
        answer, *payloads = handle.actor.work.options(num_returns=1 + len(works)).remote(order.fn, works)
        future = self._watch(actor_id, "work", order.call_id, answer)
        handle.calls[order.call_id] = _Call(order, future, payloads)

    def kill(self, actor_id: int) -> None:
        handle = self._handles.pop(actor_id, None)
        if handle is not None:
            ray.kill(handle.actor, no_restart=True)

    def reserve(self, actors: Mapping[str, int]) -> None:
        """Ray starts machines for waiting actors anyway, but step by step; asked for all of them it does not."""
        if self._scales:
            bundles = [bundle_of(self._pools[name]) for name, count in actors.items() for _ in range(count)]
            request_resources(bundles=bundles)

    def _leaving(self) -> list[Fact]:
        """Actors on machines that Ray has been told to drain, looked for every few seconds."""
        if time.monotonic() - self._looked_at < LOOK_FOR_DRAINS_S:
            return []
        self._looked_at = time.monotonic()
        nodes = ray._private.state.state.get_draining_nodes()
        return [Leaving(actor_id=actor_id) for actor_id, handle in self._handles.items() if handle.node in nodes]

    def wait(self, timeout_s: float) -> list[Fact]:
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

    def _watch(self, actor_id: int, what: str, call_id: int, reference: Any) -> concurrent.futures.Future[Any]:
        """Answers are queued by Ray's threads; the driver's thread reads them, so nothing here needs a lock."""
        future: concurrent.futures.Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._answers.put((actor_id, what, call_id, done)))
        return future

    def _facts(self, actor_id: int, what: str, call_id: int, future: concurrent.futures.Future[Any]) -> list[Fact]:
        handle = self._handles.get(actor_id)
        if handle is None:
            return []
        error = future.exception()
        if what == "begin":
            return [] if error else [Started(actor_id=actor_id, call_id=call_id)]
        if is_death(error) or (error is not None and what == "place"):
            return self._death(actor_id, handle, error)
        if what == "work":
            return self._ended(actor_id, handle)
        if what == "place":
            node, pid = future.result()
            handle.node = node
            return [Placed(actor_id=actor_id, node=node, pid=pid)]
        return [SetUp(actor_id=actor_id, error=str(error) if error else future.result())]

    def _death(self, actor_id: int, handle: _Handle, error: BaseException | None) -> list[Fact]:
        """What a dead actor had finished, then its death."""
        concurrent.futures.wait([call.answer for call in handle.calls.values()], timeout=SETTLE_S)
        facts = self._ended(actor_id, handle)
        self.kill(actor_id)
        return [*facts, Died(actor_id=actor_id, cause=cause_of_death(error), detail=detail_of_death(error))]

    def _ended(self, actor_id: int, handle: _Handle) -> list[Fact]:
        """The calls that have come back, in their order: Ray's threads may report a later one first."""
        facts: list[Fact] = []
        for call_id, call in list(handle.calls.items()):
            if not call.answer.done() or is_death(call.answer.exception()):
                break
            del handle.calls[call_id]
            facts.append(_answer(actor_id, call, handle.pool))
        return facts


def is_death(error: BaseException | None) -> bool:
    """Whether the error of a call means that its actor is gone.

    A `RayTaskError` never does, even where it also is a `RayActorError`: then an input's producer has died.
    """
    return isinstance(error, RayActorError | OutOfMemoryError) and not isinstance(error, RayTaskError)


def cause_of_death(error: BaseException | None) -> Cause:
    """What took the actor away. Ray has no field for a dead node, only this sentence in the message."""
    if isinstance(error, OutOfMemoryError):
        return "memory"
    if isinstance(error, ActorUnavailableError):
        return "unknown"
    if isinstance(error, RayActorError) and (error.preempted or "its node has died" in str(error)):
        return "machine"
    return "process"


def detail_of_death(error: BaseException | None) -> str:
    """What Ray knows about it, in one line and without its advice."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, OutOfMemoryError):
        return lines[0]
    if "connection error code 2" in lines[-1]:
        return "it was killed or crashed without a word"
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
        reason=f"its result could not be returned: {detail_of_death(error)}",
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
    """Environment of the pool's processes, set before they import anything: threads pinned to the actor's CPUs."""
    threads = str(max(1, int(pool.num_cpus)))
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    environment = {f"{name}_NUM_THREADS": threads for name in names}
    environment["OPENCV_FOR_THREADS_NUM"] = threads
    if python_path:
        environment["PYTHONPATH"] = python_path
    return environment


def checkout_path() -> str:
    """This process's import path without the interpreter's own directories, for workers on the same machine."""
    own = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    entries = [os.path.abspath(entry) for entry in sys.path]
    kept = [e for e in entries if os.path.isdir(e) and not e.startswith(own) and "dist-packages" not in e]
    return os.pathsep.join(dict.fromkeys(kept))


def bundle_of(pool: PoolSpec) -> dict[str, float]:
    """What one actor of a pool takes of a machine, in Ray's words."""
    shares = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    return {name: share for name, share in shares.items() if share}


def check_room(pools: Iterable[PoolSpec], room: Mapping[str, float]) -> None:
    """See that a machine with the resources `room` can hold an actor of each pool.

    Raises:
        UsageError: it cannot; names the pool and the setting to change.
    """
    for pool in pools:
        for name, share in (("CPU", pool.num_cpus), ("GPU", pool.num_gpus)):
            if share > room.get(name, 0):
                raise UsageError(
                    f"pool {pool.name!r} wants {share:g} {name} an actor, this machine has {room.get(name, 0):g}; "
                    f"set its num_{name.lower()}s lower"
                )


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile listens at 127.0.0.1 alone, as it does on Windows and macOS.

    On Linux Ray puts the machine's own address in place of a loopback one that it is given, and then its services
    listen at every address: whoever reaches them runs code.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class Runtime:
    """Warm actor pools on Ray, for several runs one after the other. Use as a context manager.

    `address` None starts a Ray of its own on this machine, which ends with this object; its `num_cpus` is the
    machine's or what the pools need, whichever is more (a logical number, so that a CPU and a GPU actor fit on two
    cores). With an address ("auto", "host:port") it joins that cluster and stops nothing but its actors at the end.
    Where this process is connected to Ray already, that connection is used and kept.

    Raises:
        ClusterError: Ray cannot be started or joined.
        UsageError: this machine can never hold an actor of a pool.
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        object_store_bytes: int | None = None,
    ) -> None:
        self._pools = tuple(pools)
        self._address = address
        self._num_cpus = num_cpus
        self._object_store_bytes = object_store_bytes
        self._owns_ray = False
        self._dispatcher: Dispatcher | None = None

    def __enter__(self) -> Runtime:
        local = self._address is None and not ray.is_initialized()
        if not ray.is_initialized():
            self._connect()
        try:
            if local:
                check_room(self._pools, ray.cluster_resources())
            cluster = RayCluster(checkout_path() if local else None, self._pools, scales=self._address is not None)
            self._dispatcher = Dispatcher(self._pools, cluster)
            self._dispatcher.staff()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the actors, and Ray where this object started it."""
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def run(
        self,
        graph: Graph,
        first_units: Iterable[Unit],
        *,
        limits: Limits | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Totals:
        """Run a graph of units to its end; see `Dispatcher.run`. May be called from any thread, one run at a time.

        Raises:
            ClusterError: the actors of a pool fail to start.
            ValueError: the graph adds a unit that cannot be (see `Board.add`).
        """
        return self._open().run(
            graph, first_units, limits=limits or Limits(), on_event=on_event, should_stop=should_stop
        )

    def actors(self) -> list[ActorInfo]:
        return self._open().actors()

    @property
    def pools(self) -> dict[str, PoolSpec]:
        """The pools by name."""
        return {pool.name: pool for pool in self._pools}

    def _open(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("the runtime is not open; use it as a context manager")
        return self._dispatcher

    def _connect(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        needed = math.ceil(sum(pool.num_actors * pool.num_cpus for pool in self._pools))
        resources: Counter[str] = Counter()
        for pool in self._pools:
            resources.update({name: pool.num_actors * share for name, share in pool.resources.items()})
        own: dict[str, Any] = {
            "num_cpus": self._num_cpus or max(len(os.sched_getaffinity(0)), needed),
            "resources": dict(resources) or None,
            "object_store_memory": self._object_store_bytes,
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
        }
        for remaining in reversed(range(START_TRIES)):
            try:
                with contextlib.nullcontext() if self._address else on_loopback():
                    ray.init(
                        address=self._address or "local",
                        log_to_driver=False,
                        logging_level="ERROR",
                        **({} if self._address else own),
                    )
                break
            except Exception as error:  # where a node does not start in time Ray raises just that
                ray.shutdown()
                if remaining and "timed out during startup" in str(error):
                    continue
                where = f"join the Ray cluster at {self._address}" if self._address else "start Ray on this machine"
                raise ClusterError(f"cannot {where}: {error}") from error
        self._owns_ray = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
