"""Measure large manifests and ledgers, and the dispatcher on a thousand GPUs in simulated time.

    python benchmarks/scale.py rows [--sizes 10000,100000]      each step's seconds and peak memory
    python benchmarks/scale.py status [--rows 1000000]          `vace-batch status` over so many finished rows
    python benchmarks/scale.py gpus [--gpus 1000] [--window-s 120,30,10]

`rows`: each size in a process of its own; every row names one small video and differs in its seed; the ledger is
filled with a record a row. `gpus`: the real dispatcher over actors that only wait, in simulated time. The clock also
runs while the driver computes, at the speed of this machine, so a driver that is too slow shows as idle GPUs.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from vace_batch.batch.batch import open_batch
from vace_batch.cluster.calls import Order, Reply
from vace_batch.cluster.dispatcher import Dispatcher
from vace_batch.cluster.events import Event, UnitDone
from vace_batch.cluster.facts import Ended, Fact, Placed, SetUp, Started
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Unit
from vace_batch.ledger import ledger as ledger_module
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.outputs import seal_output
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.reader import read_manifest
from vace_batch.options import Options
from vace_batch.storage import files as storage
from vace_batch.video.writer import write_clip

app = typer.Typer(add_completion=False)

# --- rows ------------------------------------------------------------------------------------------------------------


@app.command()
def rows(
    sizes: Annotated[str, typer.Option()] = "10000,100000",
    only: Annotated[int, typer.Option(help="one size, in this process")] = 0,
) -> None:
    """Validate, plan, list, and summarise manifests and ledgers of these sizes."""
    if only:
        _rows(only)
        return
    for size in sizes.split(","):
        subprocess.run([sys.executable, __file__, "rows", "--only", size], check=True)


def _rows(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        write_clip(folder / "a.mp4", np.zeros((2, 48, 64, 3), np.uint8), rate=Fraction(25))
        path, out = _write_manifest(folder, count), str(folder / "out")
        manifest = _step(count, "validate", lambda: read_manifest(path))
        batch = _step(count, "plan", lambda: open_batch(manifest, out, Options()))
        jobs = batch.planned
        del batch
        _step(count, "fill the ledger", lambda: _fill(out, jobs))
        done = _step(count, "list what is done", lambda: Ledger(out).keys("done", "clip"))
        assert len(done) == count - count // 1000
        assert _step(count, "status, records one by one", lambda: summarise(out, compact=True)).pending == 0
        assert _step(count, "status, records together", lambda: summarise(out)).pending == 0
        assert not _step(count, "plan again and resume", lambda: open_batch(manifest, out, Options())).pending


def _step(count: int, name: str, do: Callable[[], Any]) -> Any:
    begin, cpu = time.perf_counter(), time.process_time()
    found = do()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"rows": count, "step": name, "seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "peak_mib": round(peak)}
    print(json.dumps(told), flush=True)
    return found


def _write_manifest(folder: Path, count: int) -> str:
    box = {"x": 8.0, "y": 8.0, "width": 16.0, "height": 16.0}
    columns = {
        "job_id": [f"job{number}" for number in range(count)],
        "video_uri": ["a.mp4"] * count,
        "task": ["removal"] * count,
        "boxes": [[box]] * count,
        "seed": list(range(count)),
    }
    pq.write_table(pa.table(columns), folder / "m.parquet")
    return str(folder / "m.parquet")


def _fill(out: str, jobs: Iterable[PlannedJob]) -> None:
    """Records and (empty) videos as a run leaves them, written without syncing each to the disk."""
    window = {"key": ledger_module.make_key("window", 0), "region": 0, "start": 0, "stop": 81, "num_frames": 81}
    window |= {"width": 480, "height": 832, "seed": 7, "seconds": 3.125}
    made = {"status": "done", "runs": 1, "windows": 3, "seconds": 9.5, "window_rows": [window] * 3}
    made |= {"settings": {"model": "tiny", "revision": "0" * 32, "num_inference_steps": 20, "guidance_scale": 5.0}}
    lost = {"status": "failed", "runs": 3, "windows": 0, "seconds": 0.0, "error_code": "worker_died"}
    (Path(out) / "videos").mkdir(exist_ok=True)
    for number, job in enumerate(jobs):
        key, video = job.clip_key, Path(out) / job.output
        fails = number % 1000 == 999
        path = Path(out) / "ledger" / ("quarantine" if fails else "done") / key[-32:-30] / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        more = lost | {"reason": f"row {number}: it was killed"} if fails else made
        if not fails:
            video.touch()
            more = more | {"output": job.output, **seal_output(str(video))}
        path.write_text(json.dumps({"key": key, "job_id": f"job{number}", "finished_at": ledger_module.now(), **more}))


@app.command()
def status(
    rows: Annotated[int, typer.Option()] = 1_000_000,
    at: Annotated[str, typer.Option(help="keep the ledger here, or use the one that is here")] = "",
) -> None:
    """`vace-batch status` over a ledger with a record a row, as a process of its own, before and after compacting."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        out = at or folder
        if not storage.exists(storage.join(out, "run.json")):
            _ledger(out, rows)
        for what in ("records one by one", "records together"):
            for form in ([], ["--json"]):
                _timed_status(out, what, form)
            if what == "records one by one":
                subprocess.run([sys.executable, "-c", _COMPACT, out], check=True)


_COMPACT = (
    "import sys; from vace_batch.ledger.summary import summarise as s; s(sys.argv[1], compact=True, shown_only=True)"
)


def _ledger(out: str, rows: int) -> None:
    jobs = [
        PlannedJob(
            job_id=f"job{number}",
            clip_key=ledger_module.make_key("clip", number),
            prep_key=ledger_module.make_key("prep", number),
            output=f"videos/job{number}.mp4",
            row=json.dumps({"job_id": f"job{number}", "video_uri": f"s3://archive/{number}.mp4", "seed": number}),
        )
        for number in range(rows)
    ]
    write_plan(out, jobs, {"manifest": "-", "options": {}})
    _fill(out, jobs)


def _timed_status(out: str, what: str, form: list[str]) -> None:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "vace_batch", "status", out, *form]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    size = sum(len(part) for part in iter(lambda: process.stdout.read(1 << 20), b""))
    _, code, used = os.wait4(process.pid, 0)
    told = {"status": what, "form": "".join(form) or "text", "seconds": round(time.perf_counter() - begin, 2)}
    told |= {"cpu_s": round(used.ru_utime + used.ru_stime, 2), "peak_mib": round(used.ru_maxrss / 1024)}
    print(
        json.dumps(told | {"answer_mib": round(size / 2**20, 1), "exit": os.waitstatus_to_exitcode(code)}), flush=True
    )


# --- gpus ------------------------------------------------------------------------------------------------------------


class WaitingCluster:
    """Actors whose calls last their payload's seconds, in simulated time to which the driver's real time is added."""

    def __init__(self) -> None:
        self.clock, self.busy_s, self.driver_s, self._seen = 0.0, 0.0, 0.0, time.process_time()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._facts: list[Fact] = []
        self._queues: dict[int, list[Order]] = {}
        self._ticket, self._random = itertools.count(), random.Random(0)

    def now(self) -> float:
        took = time.process_time() - self._seen
        self.clock, self.driver_s, self._seen = self.clock + took, self.driver_s + took, self._seen + took
        return self.clock

    def start(self, actor_id: int, pool: PoolSpec) -> None:
        self._queues[actor_id] = []
        self._after(1.0, lambda: self._facts.append(Placed(actor_id=actor_id, node="", pid=1)))

    def set_up(self, actor_id: int) -> None:
        self._after(30.0, lambda: self._facts.append(SetUp(actor_id=actor_id)))

    def submit(self, actor_id: int, order: Order) -> None:
        self._queues[actor_id].append(order)
        if len(self._queues[actor_id]) == 1:
            self._begin(actor_id)

    def kill(self, actor_id: int) -> None:
        self._queues.pop(actor_id)

    def wait(self, timeout_s: float) -> list[Fact]:
        until = self.now() + timeout_s
        while self._events and self._events[0][0] <= (until if not self._facts else self.clock):
            at, _, happen = heapq.heappop(self._events)
            self.clock = max(self.clock, at)
            happen()
        if not self._facts:
            self.clock = max(self.clock, until)
        facts, self._facts = self._facts, []
        self._seen = time.process_time()  # the simulation's own time is not the driver's
        return facts

    def reserve(self, actors: Mapping[str, int]) -> None: ...

    def _begin(self, actor_id: int) -> None:
        order = self._queues[actor_id][0]
        self._facts.append(Started(actor_id=actor_id, call_id=order.call_id))
        seconds = sum(float(str(item.unit.payload)) for item in order.items) * self._random.uniform(0.8, 1.2)
        if order.pool == "gpu":
            self.busy_s += seconds
        self._after(seconds, lambda: self._end(actor_id, order))

    def _end(self, actor_id: int, order: Order) -> None:
        replies = tuple(Reply(has_payload=item.unit.leaves_bytes > 0) for item in order.items)
        self._facts.append(
            Ended(actor_id=actor_id, call_id=order.call_id, replies=replies, handles=(object(),) * len(replies))
        )
        self._queues[actor_id].pop(0)
        if self._queues[actor_id]:
            self._begin(actor_id)

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock + seconds, next(self._ticket), happen))


CLIP_WINDOWS = 10
VCU_BYTES = 81 * 480 * 832 * 4
BUILD_S, STITCH_S = 6.0, 20.0


class Clips:
    """Build and generate for each window, stitch after the tenth of a clip; as many as are wanted, prepared before."""

    def __init__(self, windows: int, window_s: float) -> None:
        self._windows, self._window_s = windows, window_s
        self._left = dict.fromkeys(range(windows // CLIP_WINDOWS), CLIP_WINDOWS)

    def units(self) -> Iterable[Unit]:
        for number in range(self._windows):
            build = self._unit("build", number, "cpu", BUILD_S, leaves_bytes=VCU_BYTES, priority=(2, 0))
            yield build
            yield self._unit("generate", number, "gpu", self._window_s, inputs=(build.unit_id,))

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        if unit.kind != "generate":
            return ()
        clip = int(unit.key) // CLIP_WINDOWS
        self._left[clip] -= 1
        return () if self._left[clip] else (self._unit("stitch", clip, "cpu", STITCH_S, priority=(1, 0)),)

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        raise RuntimeError(failure.reason)

    def _unit(self, kind: str, number: int, pool: str, seconds: float, **more: Any) -> Unit:
        return Unit(kind=kind, key=str(number), pool=pool, fn="a:b", payload=seconds, time_limit_s=1e9, **more)


@app.command()
def gpus(
    gpus: Annotated[int, typer.Option()] = 1000,
    windows: Annotated[int, typer.Option(help="windows a GPU")] = 20,
    window_s: Annotated[str, typer.Option(help="seconds a window takes")] = "120,30,10,3",
) -> None:
    """Drive the real dispatcher over `gpus` waiting actors."""
    for seconds in map(float, window_s.split(",")):
        cluster, busy_until = WaitingCluster(), [0.0]
        per_gpu_s = (BUILD_S + STITCH_S / CLIP_WINDOWS) / seconds
        cpu_actors = int(gpus * per_gpu_s * 1.3) + 1
        pools = [PoolSpec(name="cpu", num_actors=cpu_actors), PoolSpec(name="gpu", num_actors=gpus, num_gpus=1)]
        clips = Clips(gpus * windows, seconds)

        def note(event: Event, cluster: WaitingCluster = cluster, last: list[float] = busy_until) -> None:
            if isinstance(event, UnitDone) and event.unit.kind == "generate":
                last[0] = cluster.clock

        limits = Limits(payload_bytes=4 * gpus * VCU_BYTES)
        dispatcher = Dispatcher(pools, cluster)
        totals = dispatcher.run(clips, clips.units(), limits=limits, on_event=note, should_stop=lambda: False)
        made = gpus * windows
        told = {
            "gpus": gpus,
            "cpu_actors": cpu_actors,
            "window_s": seconds,
            "windows": made,
            "gpu_busy": round(cluster.busy_s / gpus / (busy_until[0] - 31), 3),
            "driver_cpu": round(cluster.driver_s / totals.seconds, 3),
            "driver_ms_a_unit": round(1000 * cluster.driver_s / totals.planned, 3),
            "ledger_calls_a_s": round(LEDGER_CALLS * made / totals.seconds),
        }
        print(json.dumps(told), flush=True)


LEDGER_CALLS = 4
"""Requests that one window costs the store: looked for, frames put, record put, record read; `calls_of_a_window`."""


def calls_of_a_window(out: str) -> int:
    """Count, on a real ledger, the requests to the store of one window in `steps/generate.py`."""
    ledger, key = Ledger(out), ledger_module.make_key("window", 1)
    calls = 0
    real = storage.resolve

    def counted(uri: str) -> Any:
        nonlocal calls
        calls += 1
        return real(uri)

    storage.resolve = counted
    try:
        ledger.done(key)
        uri = ledger.artifact_uri(key, ".mkv")
        storage.publish(uri, b"frames")
        ledger.commit(key, {"artifact": ledger.relative(uri)})
        ledger.done(key)
    finally:
        storage.resolve = real
    return calls


if __name__ == "__main__":
    assert calls_of_a_window(f"memory://{os.getpid()}") == LEDGER_CALLS
    app()
