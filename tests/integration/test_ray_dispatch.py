"""The dispatcher on a real local Ray: payloads, deaths, hangs, verdicts, batches."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from vace_batch.cluster.events import ActorDied, ActorReady, Event, UnitStarted
from vace_batch.cluster.runtime import Runtime, check_room
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Totals, Unit
from vace_batch.errors import ClusterError, UsageError

WORKERS = "tests.support.workers:"
POOLS = (
    PoolSpec(name="cpu", num_actors=2),
    PoolSpec(name="gpu", setup=WORKERS + "make_state", setup_args={"name": "engine"}, max_batch=4, overlaps=True),
)


@pytest.fixture(scope="module")
def others() -> set[psutil.Process]:
    """The processes below this one that are not of the Ray of these tests, such as the tests' shared Ray."""
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def runtime(others: set[psutil.Process]) -> Iterator[Runtime]:
    with Runtime(POOLS, object_store_bytes=200 << 20) as open_runtime:
        yield open_runtime


class Recorder:
    """A graph that remembers every end and every event; `after_done` may add units."""

    def __init__(self, after_done: Callable[[Unit, object], Iterable[Unit]] = lambda unit, meta: ()) -> None:
        self.metas: dict[str, object] = {}
        self.failures: dict[str, Failure] = {}
        self.events: list[Event] = []
        self.starts: dict[str, list[int]] = defaultdict(list)
        self.on_start: Callable[[UnitStarted], None] = lambda event: None
        self._after_done = after_done

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        assert unit.key not in self.metas
        self.metas[unit.key] = meta
        return self._after_done(unit, meta)

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        assert unit.key not in self.failures
        self.failures[unit.key] = failure
        return ()

    def note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, UnitStarted):
            self.starts[event.unit.key].append(event.attempt)
            self.on_start(event)

    def deaths(self) -> list[ActorDied]:
        return [event for event in self.events if isinstance(event, ActorDied)]


def run(runtime: Runtime, graph: Recorder, units: Iterable[Unit], limits: Limits | None = None) -> Totals:
    deadline = time.monotonic() + 60
    totals = runtime.run(
        graph, units, limits=limits, on_event=graph.note, should_stop=lambda: time.monotonic() > deadline
    )
    assert totals.planned == totals.done + totals.failed
    assert totals.pending == 0, "the run did not end within a minute"
    return totals


def behaving(
    name: str, does: str, *, pool: str = "cpu", key: str | None = None, fn: str = "behave", limit_s: float = 60.0
) -> Unit:
    return Unit(kind="any", key=name, pool=pool, fn=WORKERS + fn, payload=does, batch_key=key, time_limit_s=limit_s)


def making(number: int, sleep_s: float = 0.0) -> Unit:
    payload = {"size": 100_000, "value": number, "sleep_s": sleep_s}
    return Unit(
        kind="make", key=f"make{number}", pool="cpu", fn=WORKERS + "make", payload=payload, leaves_bytes=800_000
    )


def summing(unit: Unit, sleep_s: float = 0.0) -> Unit:
    return Unit(
        kind="sum",
        key=f"sum of {unit.key}",
        pool="gpu",
        fn=WORKERS + "add_up",
        payload={"sleep_s": sleep_s},
        inputs=(unit.unit_id,),
        batch_key="sums",
    )


def kill_once(runtime: Runtime, graph: Recorder, name: str) -> None:
    """SIGKILL the process that runs this unit, the first time that it starts."""

    def kill(event: UnitStarted) -> None:
        if event.unit.key == name and len(graph.starts[name]) == 1:
            pids = {actor.actor_id: actor.pid for actor in runtime.actors()}
            os.kill(pids[event.actor_id], signal.SIGKILL)

    graph.on_start = kill


def check_sums(graph: Recorder, count: int) -> None:
    sums = {name: meta["sum"] for name, meta in graph.metas.items() if isinstance(meta, dict)}
    assert sums == {f"sum of make{number}": number * 100_000 for number in range(count)}


def test_nothing_of_a_ray_of_ones_own_listens_to_other_machines(runtime: Runtime, others: set[psutil.Process]) -> None:
    assert runtime.actors()
    found = set()
    for process in {psutil.Process(), *psutil.Process().children(recursive=True)} - others:
        with suppress(psutil.NoSuchProcess):
            places = process.net_connections("tcp")
            found |= {place.laddr.ip.removeprefix("::ffff:") for place in places if place.status == psutil.CONN_LISTEN}
    assert found == {"127.0.0.1"}


def test_ray_starts_a_process_for_each_actor_and_no_other_worker(runtime: Runtime) -> None:
    run(runtime, Recorder(), [behaving("here", ""), behaving("there", "", pool="gpu")])
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert len(list(logs.glob("worker-*.out"))) == sum(pool.num_actors for pool in POOLS)


def test_forty_units_in_two_stages_hand_their_payloads_over(runtime: Runtime) -> None:
    graph = Recorder(lambda unit, meta: [summing(unit)] if unit.kind == "make" else [])
    totals = run(runtime, graph, [making(number) for number in range(20)], Limits(payload_bytes=3_000_000))
    assert (totals.planned, totals.done, totals.retries) == (40, 40, 0)
    check_sums(graph, 20)
    results = [meta for meta in graph.metas.values() if isinstance(meta, dict)]
    assert {str(meta["state"]) for meta in results} == {"{'name': 'engine'}"}
    assert all(1 <= meta["batch"] <= 4 for meta in results)
    gc.collect()
    counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    assert len(counts) < 20, "payloads of ended units are still held"


@pytest.mark.parametrize("victim", ["make3", "sum of make3"], ids=["cpu actor", "gpu actor"])
def test_a_killed_actor_costs_its_running_units_one_more_run(runtime: Runtime, victim: str) -> None:
    graph = Recorder(lambda unit, meta: [summing(unit, 0.1)] if unit.kind == "make" else [])
    kill_once(runtime, graph, victim)
    totals = run(runtime, graph, [making(number, 0.1) for number in range(8)])
    assert (totals.done, totals.failed) == (16, 0)
    check_sums(graph, 8)
    (death,) = graph.deaths()
    assert death.cause == "process"
    died = {unit_id.partition("/")[2] for unit_id in death.unit_ids}
    assert victim in died
    again = {name for name, attempts in graph.starts.items() if len(attempts) > 1}
    assert again <= died, "only units that were running may run again"
    assert totals.retries == len(died)


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_a_unit_that_waits_behind_a_killed_one_is_not_charged(runtime: Runtime, pool: str) -> None:
    """Where calls overlap, the killed unit is not charged either: either call may have been the cause."""
    graph = Recorder()
    kill_once(runtime, graph, "first")
    units = [behaving(name, "sleep 0.3", pool=pool) for name in ("first", "second", "third", "fourth")]
    run(runtime, graph, units)
    attempts = {"first": 2 if pool == "cpu" else 1, "second": 1, "third": 1, "fourth": 1}
    assert graph.metas == attempts, "the metas are the attempts"


def test_a_poison_unit_is_found_in_its_batch_and_the_others_survive(runtime: Runtime) -> None:
    graph = Recorder()
    words = ["sleep 0.05", "sleep 0.05", "exit", "sleep 0.05"]
    units = [behaving(f"u{i}", word, pool="gpu", key="k") for i, word in enumerate(words)]
    totals = run(runtime, graph, units, Limits(attempts=2))
    assert set(graph.metas) == {"u0", "u1", "u3"}
    failure = graph.failures["u2"]
    assert (failure.code, failure.attempts, failure.retryable) == ("worker_died", 2, True)
    assert failure.reason.startswith("the worker process died while running the unit")
    assert totals.done == 3


def resting(name: str, folder: Path, other: str, dies: str = "") -> Unit:
    return behaving(name, f"{folder / name} {folder / other} {dies}", pool="gpu", fn="leave_a_finish")


def test_the_rest_of_a_call_runs_beside_the_next_one(runtime: Runtime, tmp_path: Path) -> None:
    graph = Recorder()
    run(runtime, graph, [resting("first", tmp_path, "second"), resting("second", tmp_path, "first")])
    assert graph.metas == {"first": (1, True), "second": (1, True)}, "the first cannot end before the second starts"


def test_a_death_beside_a_rest_is_charged_to_nobody_and_both_run_again_alone(runtime: Runtime, tmp_path: Path) -> None:
    graph = Recorder()
    units = [resting("first", tmp_path, "none-such"), resting("second", tmp_path, "first", "dies")]
    totals = run(runtime, graph, units)
    assert graph.metas == {"first": (1, False), "second": (1, True)}
    assert totals.retries == 2 and [set(death.unit_ids) for death in graph.deaths()] == [{"any/first", "any/second"}]


def test_a_hanging_unit_is_killed_and_charged(runtime: Runtime) -> None:
    graph = Recorder()
    units = [behaving("stuck", "hang", limit_s=0.7), behaving("fine", "")]
    run(runtime, graph, units, Limits(attempts=2))
    failure = graph.failures["stuck"]
    assert (failure.code, failure.attempts) == ("timeout", 2)
    assert failure.reason == "the step did not end within its time limit of 0.7 s (--unit-time-limit) (2 attempts)"
    assert [death.cause for death in graph.deaths()] == ["timeout", "timeout"]
    assert set(graph.metas) == {"fine"}


def test_verdicts_and_bugs_become_failures_of_their_unit(runtime: Runtime) -> None:
    graph = Recorder()
    words = {"sound": "clip-error", "busy": "busy-storage", "bug": "bug", "lock": "lock", "fine": ""}
    totals = run(runtime, graph, [behaving(name, word) for name, word in words.items()])
    assert graph.metas == {"busy": 3, "fine": 1}
    sound, bug, lock = (graph.failures[name] for name in ("sound", "bug", "lock"))
    assert (sound.code, sound.reason, sound.retryable, sound.attempts) == (
        "no_video_track",
        "the file has sound only",
        False,
        1,
    )
    assert (bug.code, bug.attempts) == ("internal_error", 3)
    assert bug.reason == "unexpected KeyError: 'not there' (3 attempts)"
    assert bug.traceback is not None and 'raise KeyError("not there")' in bug.traceback
    assert (lock.code, lock.attempts) == ("internal_error", 3)
    assert "cannot pickle" in lock.reason
    assert totals.actor_deaths == 0


def test_an_error_of_one_unit_in_a_batch_is_its_own(runtime: Runtime) -> None:
    graph = Recorder()
    words = ["fine", "bad", "fine", "fine"]
    units = [behaving(f"u{i}", word, pool="gpu", key="k", fn="verdict_on_one") for i, word in enumerate(words)]
    totals = run(runtime, graph, units)
    assert graph.failures["u1"].code == "bad_one"
    assert (totals.done, totals.retries) == (3, 0)


def test_out_of_memory_takes_smaller_batches_and_fails_only_what_never_fits(runtime: Runtime) -> None:
    graph = Recorder()
    words = ["", "", "", "huge"]
    units = [behaving(f"u{i}", word, pool="gpu", key="k", fn="small_memory") for i, word in enumerate(words)]
    run(runtime, graph, units)
    assert set(graph.metas) == {"u0", "u1", "u2"}
    failure = graph.failures["u3"]
    assert (failure.code, failure.reason) == ("out_of_memory", "not enough memory: MemoryError: no room (3 attempts)")


def test_a_run_from_another_thread_and_threads_pinned_in_workers(runtime: Runtime) -> None:
    graph = Recorder()
    thread = threading.Thread(target=run, args=(runtime, graph, [behaving("u", "threads")]))
    thread.start()
    thread.join(60)
    assert graph.metas == {"u": "1"}


def test_a_stop_ends_what_runs_and_leaves_the_rest(runtime: Runtime) -> None:
    graph = Recorder()
    units = [behaving(f"u{i}", "sleep 0.3", pool="gpu") for i in range(6)]
    totals = runtime.run(graph, units, on_event=graph.note, should_stop=lambda: len(graph.starts) >= 2)
    # The call behind the second one begins by itself the moment the device is free: in time, or it is given back.
    assert totals.done in (2, 3) and (totals.failed, totals.pending) == (0, 6 - totals.done)
    assert list(graph.metas) == list(graph.starts)[: totals.done] == ["u0", "u1", "u2"][: totals.done]


def test_a_pool_that_cannot_start_stops_the_run_and_says_why(runtime: Runtime) -> None:
    with Runtime([PoolSpec(name="vace", num_cpus=0, setup=WORKERS + "failing_setup")]) as broken:
        graph = Recorder()
        with pytest.raises(ClusterError, match=r"pool 'vace'.*3 failures in a row.*RuntimeError: weights are missing"):
            broken.run(graph, [behaving("u", "", pool="vace")], on_event=graph.note)
    assert not any(isinstance(event, ActorReady) for event in graph.events)
    assert ray.is_initialized(), "a runtime that did not start Ray must not stop it"
    run(runtime, Recorder(), [behaving("still works", "")])


def test_a_machine_without_room_for_a_pool_is_refused() -> None:
    pool = PoolSpec(name="gpu", num_gpus=1)
    check_room([pool], {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(UsageError, match="'gpu': each actor needs 1 GPU, this machine has 0; set its num_gpus lower"):
        check_room([pool], {"CPU": 2.0})
