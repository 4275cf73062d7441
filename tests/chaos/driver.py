"""A driver that tests may kill: one run of stand-in windows over one OUT, described by one JSON object.

    python -m tests.chaos.driver '{"out": "/tmp/out", "windows": 40}'

Events go to standard output, a JSON object a line; the last line has the counters of the ledger. Exit codes are those
of `vace-batch run`.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import steps
from vace_batch.cluster.events import ActorDied, ActorReady, Event, UnitDone
from vace_batch.cluster.runtime import Runtime  # first: it quiets Ray before Ray is imported
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Unit
from vace_batch.errors import ClusterError, LostError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.ledger.summary import summarise

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

WORK = "tests.chaos.steps:"
PREEMPTION = 2
"""DRAIN_NODE_REASON_PREEMPTION of Ray's autoscaler.proto; the other reason is refused while the machine works."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The settings of one driver; `words` give the behaviour of windows by number."""

    out: str
    windows: int = 40
    clip_windows: int = 10
    seconds: float = 0.02
    cpu_actors: int = 1
    gpu_actors: int = 2
    max_batch: int = 1
    time_limit_s: float = 120.0
    nodes: int = 0
    clock_jumps: bool = False
    payload_mb: int = 64
    object_store_mb: int | None = None
    words: dict[str, str] = field(default_factory=dict)

    @property
    def clips(self) -> int:
        return -(-self.windows // self.clip_windows)

    def windows_of(self, clip: int) -> range:
        return range(clip * self.clip_windows, min(self.windows, (clip + 1) * self.clip_windows))

    def planned(self) -> list[PlannedJob]:
        return [
            PlannedJob(
                job_id=f"clip{number}",
                clip_key=steps.clip_key(number),
                prep_key="-",
                output=steps.output(number),
                row="{}",
            )
            for number in range(self.clips)
        ]


class Windows:
    """The graph of one trial: build and generate each missing window, then stitch its clip."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._ledger = Ledger(trial.out)
        done = self._ledger.keys("done", "window")
        ended = self._ledger.keys("done", "clip") | self._ledger.keys("quarantine", "clip")
        clips = [clip for clip in range(trial.clips) if steps.clip_key(clip) not in ended]
        self._missing = {
            clip: {window for window in trial.windows_of(clip) if steps.window_key(window) not in done}
            for clip in clips
        }

    def first_units(self) -> Iterator[Unit]:
        for clip, missing in self._missing.items():
            for window in sorted(missing):
                yield from self._window(window)
            if not missing:
                yield self._stitch(clip)

    def _window(self, window: int) -> Iterator[Unit]:
        trial = self._trial
        payload = (trial.out, window, trial.seconds, trial.words.get(str(window), "ok"))
        size = 4 * steps.SIDE * steps.SIDE * 3
        build = self._unit("build", window, "cpu", payload, leaves_bytes=size)
        yield build
        yield self._unit("generate", window, "gpu", payload, inputs=(build.unit_id,), batch_key="windows")

    def _stitch(self, clip: int) -> Unit:
        payload = (self._trial.out, clip, self._trial.windows_of(clip))
        return self._unit("stitch", clip, "cpu", payload, priority=(1, 0))

    def _unit(self, kind: str, number: int, pool: str, payload: object, **more: Any) -> Unit:
        limit_s = self._trial.time_limit_s
        return Unit(
            kind=kind, key=str(number), pool=pool, fn=WORK + kind, payload=payload, time_limit_s=limit_s, **more
        )

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        if unit.kind != "generate":
            return []
        window = int(unit.key)
        clip = window // self._trial.clip_windows
        self._missing[clip].discard(window)
        return [] if self._missing[clip] else [self._stitch(clip)]

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        if failure.code == "storage_full":
            raise ClusterError(failure.reason)
        number = int(unit.key)
        clip = number if unit.kind == "stitch" else number // self._trial.clip_windows
        body = {"error_code": failure.code, "reason": failure.reason, "runs": failure.attempts, "windows": 0}
        self._ledger.quarantine(steps.clip_key(clip), {"status": "failed", "seconds": 0.0, **body})
        return []


def say(what: str, **more: object) -> None:
    print(json.dumps({"what": what, "at": time.monotonic(), **more}), flush=True)


def main(trial: Trial) -> int:
    asked: list[int] = []
    steps.set_up(clock_jumps=trial.clock_jumps)
    cluster = _cluster(trial)
    try:
        write_plan(trial.out, trial.planned(), {"manifest": "-", "options": {}})
        setup: dict[str, Any] = {"setup": WORK + "set_up", "setup_args": {"clock_jumps": trial.clock_jumps}}
        pools = (
            PoolSpec(name="cpu", num_actors=trial.cpu_actors, num_cpus=0.5, **setup),
            PoolSpec(name="gpu", num_actors=trial.gpu_actors, num_cpus=0.5, max_batch=trial.max_batch, **setup),
        )
        store = None if trial.object_store_mb is None else trial.object_store_mb << 20
        with Runtime(pools, object_store_bytes=store) as runtime:
            signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))

            def tell(event: Event) -> None:
                if isinstance(event, ActorReady):
                    pids = {actor.actor_id: actor.pid for actor in runtime.actors()}
                    say("ready", pool=event.pool, pid=pids[event.actor_id])
                elif isinstance(event, ActorDied):
                    say("died", pool=event.pool, cause=event.cause, units=event.unit_ids)
                elif isinstance(event, UnitDone):
                    say("done", kind=event.unit.kind, key=event.unit.key)

            graph = Windows(trial)
            limits = Limits(payload_bytes=trial.payload_mb << 20, drain_grace_s=20)
            totals = runtime.run(
                graph, graph.first_units(), limits=limits, on_event=tell, should_stop=lambda: bool(asked)
            )
        summary = summarise(trial.out)
    finally:
        if cluster is not None:
            ray.shutdown()
            cluster.shutdown()
    counts = {name: getattr(summary, name) for name in ("planned", "done", "failed", "skipped", "pending")}
    failures = {job["job_id"]: [job["error_code"], job["reason"]] for job in summary.jobs if job["error_code"]}
    say("end", counts=counts, failures=failures, deaths=totals.actor_deaths, retries=totals.retries)
    return 130 if asked else int(bool(summary.failed))


def _cluster(trial: Trial) -> Cluster | None:
    """Start several nodes on this machine, each with room for everything, if the trial asks for nodes."""
    if not trial.nodes:
        return None
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(trial.nodes)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    for node in nodes:
        say("node", pid=node.all_processes["raylet"][0].process.pid)
    signal.signal(signal.SIGUSR1, lambda number, _: _give_notice(cluster.address, nodes[0].node_id))
    return cluster


def _give_notice(address: str, node_id: str) -> None:
    """Drain a machine as after a provider's notice: the machine goes in 30 s."""
    deadline_ms = time.time_ns() // 1_000_000 + 30_000
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(node_id, PREEMPTION, "spot notice", deadline_ms)
    say("noticed", accepted=accepted, why=why)


if __name__ == "__main__":
    try:
        sys.exit(main(Trial(**json.loads(sys.argv[1]))))
    except ClusterError as error:
        say("error", reason=str(error))
        sys.exit(LostError.EXIT_CODE if isinstance(error, LostError) else 1)
