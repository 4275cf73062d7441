"""Share of the time in which a fast device is busy: everything but the device is real, and its time is given.

    python benchmarks/device_share.py

Windows come from CPU actors by Ray's object store, go to one GPU actor in calls of four, and are written and committed
as they are in a run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine_windows import windows

from vace_batch.cluster.events import Event, UnitDone, UnitStarted
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.units import Call, Failure, Outcome, PoolSpec, Unit
from vace_batch.costs import Speed
from vace_batch.ledger.ledger import make_key
from vace_batch.vace.engine import Made
from vace_batch.vace.profiles import VACE_1_3B, profile
from vace_batch.vcu.unit import VCU


class GivenTimes:
    """Stands for a device: batches take the seconds that arithmetic says, and no core. Its own Engines, too."""

    def __init__(self, window_s: float, batch: int) -> None:
        self._window_s, self._batch = window_s, batch

    def get(self, model: str, revision: str) -> GivenTimes:
        return self

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        for start in range(0, len(vcus), self._batch):
            batch = vcus[start : start + self._batch]
            time.sleep(self._window_s * len(batch))
            for offset, vcu in enumerate(batch):
                yield Made(index=start + offset, frames=vcu.frames_THWC, seconds=self._window_s)


def host_window(state: object, calls: Sequence[Call]) -> list[Outcome]:
    """Payload: number, (frames, height, width), steps. Leaves a VCU, as building does."""
    outcomes = []
    for call in calls:
        number, shape, steps = call.payload  # type: ignore[misc]
        [vcu] = windows(1, shape, steps, guided=False, noise_level=0.02)
        outcomes.append(Outcome(payload=replace(vcu, window_id=make_key("window", number))))
    return outcomes


class HostGraph:
    """Eight windows, given to the device when all of them are built; notes when it is first busy and last done."""

    def __init__(self, shape: tuple[int, int, int], steps: int, out: str) -> None:
        self.builds = [
            Unit(
                kind="build",
                key=str(number),
                pool="cpu",
                fn=f"{Path(__file__).stem}:host_window",
                payload=(number, shape, steps),
                leaves_bytes=4 * shape[0] * shape[1] * shape[2],
            )
            for number in range(8)
        ]
        self._payload = ("given", "", out)
        self.busy_from = self.busy_to = 0.0

    def on_done(self, unit: Unit, meta: object) -> list[Unit]:
        if unit.kind != "build":
            return []
        return [
            Unit(
                kind="generate",
                key=unit.key,
                pool="gpu",
                fn="vace_batch.batch.workers:generate",
                payload=self._payload,
                inputs=(unit.unit_id, self.builds[-1].unit_id),
                batch_key="equal",
            )
        ]

    def on_failed(self, unit: Unit, failure: Failure) -> list[Unit]:
        raise RuntimeError(failure.reason)

    def note(self, event: Event) -> None:
        if isinstance(event, UnitStarted) and event.unit.kind == "generate":
            self.busy_from = self.busy_from or time.perf_counter()
        if isinstance(event, UnitDone) and event.unit.kind == "generate":
            self.busy_to = time.perf_counter()


HOST_ROWS = (
    ("832x480x81, 20 steps of one forward", (81, 480, 832), 20, 1),
    ("832x480x81, 4 steps of one forward", (81, 480, 832), 4, 1),
    ("256x256x81, 20 steps of one forward, 4 at once", (81, 256, 256), 20, 4),
    ("256x256x81, 4 steps of one forward, 4 at once", (81, 256, 256), 4, 4),
)


def on_host(tflops: float = 350.0) -> None:
    """Busy share of 8 windows of one GPU actor, from its first call to the last window's record, on a real Ray: VCUs
    fetched, frames written and committed; only the device's time is given."""
    model = profile(VACE_1_3B)
    print(f"{'1.3B, 8 windows, calls of 4':52s} {'device s':>9s} {'busy':>7s}")
    for name, shape, steps, batch in HOST_ROWS:
        [vcu] = windows(1, shape, steps, guided=False, noise_level=0.02)
        window_s = Speed.sustained(tflops).seconds(*model.window_parts(shape[0], vcu.size, vcu.sampling, guided=False))
        pools = (
            PoolSpec(name="cpu"),
            PoolSpec(
                name="gpu",
                setup=f"{Path(__file__).stem}:GivenTimes",
                setup_args={"window_s": window_s, "batch": batch},
                max_batch=4,
                overlaps=True,
            ),
        )
        with tempfile.TemporaryDirectory() as out, Runtime(pools) as runtime:
            graph = HostGraph(shape, steps, out)
            runtime.run(graph, graph.builds, on_event=graph.note)
        busy = 8 * window_s / (graph.busy_to - graph.busy_from)
        print(f"{name:52s} {window_s:9.2f} {busy:7.1%}", flush=True)


if __name__ == "__main__":
    on_host()
