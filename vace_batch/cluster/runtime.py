"""A Ray runtime for the dispatcher: starts or joins a cluster and keeps warm actor pools.

Facts about Ray 2.60 that this relies on, each seen by breaking it:

- A payload outlives the actor that made it (the driver owns it); it is lost only with its node. A worker that fetches a
  lost one gets `ObjectReconstructionFailedError` as soon as the node is marked dead: 15 s after a killed raylet.
- When a raylet dies, its actors' calls fail after 2 s with `ActorUnavailableError`, before the node is dead to Ray.
- `ray.cancel` does not stop a call that stands in the queue of a busy actor, so waiting calls are dropped by killing.
- `ray.kill` fails the calls of a stopped process at once; the process itself is killed by the raylet 5-10 s later.
- A local Ray dies with its driver, `kill -9` included, except its agents, which live on for a minute: see `guard`.
- With `log_to_driver=False` Ray still prints raylet errors on standard output, unless its deduplicator skips them.
- Results of two calls of one actor may be reported in either order, since Ray calls back from several threads.
- A process that ends at once may never have its earlier, tiny answer delivered: see `Blame.DOUBT`.
- `ray.init` replaces the SIGTERM handler of the main thread, unless hindered: see `keep_sigterm_handler`.
- The processes of a local Ray die with the thread that called `ray.init`.
"""

from __future__ import annotations

from vace_batch.cluster.connection import join, start  # isort: skip  (first: it sets Ray's environment)

import math
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import ray

from vace_batch.cluster.dispatcher import Dispatcher
from vace_batch.cluster.events import Event
from vace_batch.cluster.guard import Guard
from vace_batch.cluster.ray_cluster import RayCluster
from vace_batch.cluster.staff import ActorInfo
from vace_batch.cluster.units import Graph, Limits, PoolSpec, Totals, Unit
from vace_batch.cluster.watch import Watch
from vace_batch.errors import UsageError


def checkout_path() -> str:
    """Return this process's import path without the interpreter's own directories, for workers on the same machine."""
    own = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    entries = [os.path.abspath(entry) for entry in sys.path]
    kept = [e for e in entries if os.path.isdir(e) and not e.startswith(own) and "dist-packages" not in e]
    return os.pathsep.join(dict.fromkeys(kept))


def check_room(pools: Iterable[PoolSpec], room: Mapping[str, float]) -> None:
    """Check that a machine with the resources `room` can hold an actor of each pool.

    Raises:
        UsageError: the machine cannot; names the pool and the setting to change.
    """
    for pool in pools:
        for name, share in (("CPU", pool.num_cpus), ("GPU", pool.num_gpus)):
            if share > room.get(name, 0):
                raise UsageError(
                    f"pool {pool.name!r}: each actor needs {share:g} {name}, this machine has {room.get(name, 0):g}; "
                    f"set its num_{name.lower()}s lower"
                )


class Runtime:
    """Warm actor pools on Ray, for several runs one after the other. Use as a context manager.

    Without `address` the runtime starts a Ray of its own on this machine, and stops it at the end; `num_cpus` is then
    the machine's number of CPUs or the pools', whichever is more (a logical number, so that a CPU and a GPU actor fit
    on two cores). With an address ("auto", "host:port") the runtime joins that cluster and stops nothing but its actors
    at the end. If this process is already connected to Ray, the runtime uses that connection and keeps it.

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
        self._guard: Guard | None = None
        self._watch: Watch | None = None

    def __enter__(self) -> Runtime:
        local = self._address is None and not ray.is_initialized()
        try:
            if not ray.is_initialized():
                self._connect()
            if local:
                check_room(self._pools, ray.cluster_resources())
            self._watch = Watch(private=local)
            cluster = RayCluster(
                self._watch, self._pools, python_path=checkout_path() if local else None, scales=bool(self._address)
            )
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
        """Stop the actors, and Ray if this object started it."""
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None
        if self._watch is not None and self._watch.loss is None:
            self._watch.close()
            self._watch = None
        if self._watch is not None and self._guard is not None:
            self._guard.close(kill_now=True)  # after a loss `ray.shutdown` would wait for Ray's processes
            self._guard = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None

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
            ValueError: the graph adds an invalid unit (see `RunState.add`).
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
        if self._address:
            join(self._address)
        else:
            self._guard = Guard()
            with self._guard.marking():
                start(**self._own_ray())
        self._owns_ray = True

    def _own_ray(self) -> dict[str, Any]:
        """Return the settings of a Ray that this object starts: room for every actor of every pool."""
        needed = math.ceil(sum(pool.num_actors * pool.num_cpus for pool in self._pools))
        resources: Counter[str] = Counter()
        for pool in self._pools:
            resources.update({name: pool.num_actors * share for name, share in pool.resources.items()})
        return {
            "num_cpus": self._num_cpus or max(len(os.sched_getaffinity(0)), needed),
            "resources": dict(resources) or None,
            "object_store_memory": self._object_store_bytes,
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
            # Ray would start a Python process per core that no actor can use: each actor has an environment of its own.
            "_system_config": {"prestart_worker_first_driver": False},
        }
