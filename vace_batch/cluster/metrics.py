"""A run's metrics for Prometheus, exported by Ray on the driver's node; Ray puts `ray_` before each name.

Counters begin anew with each run. `vace_batch_running` says whether the others mean anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ray.util.metrics import Counter, Gauge

from vace_batch.cluster.events import ActorDied, ActorReady, Event, UnitDone, UnitFailed, UnitStarted
from vace_batch.cluster.units import Unit
from vace_batch.costs import StepKind

METRICS = {
    "vace_batch_running": "1 while a run is running",
    "vace_batch_windows_total": "windows that ended, by status: done, failed",
    "vace_batch_frames_total": "frames of generated windows",
    "vace_batch_gpu_actors": "number of VACE actors that are ready",
    "vace_batch_gpu_busy_seconds_total": "seconds that VACE actors spent working",
    "vace_batch_queue_bytes": "estimated bytes of VCUs that wait for a VACE actor",
    "vace_batch_attempts_total": "runs of steps, repeated ones included, by kind of step",
    "vace_batch_clips_total": "clips that ended, by status: done, failed, skipped",
    "vace_batch_verdicts_total": "finished clips, further attempts included, by verdict: pass, review, fail",
    "vace_batch_last_commit_timestamp_seconds": "time of the last recorded window or clip, or of the start",
}
"""Name and meaning of every metric."""


class Metrics:
    """The metrics of one run; needs a process that is connected to Ray.

    `frames` gives the number of frames of each window by its key, and `clips` the number of ended clips by status; both
    are read as they are at that moment.
    """

    def __init__(
        self,
        frames: Mapping[str, int],
        clips: Mapping[str, int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._frames = frames
        self._clips = clips
        self._clock = clock
        self._counted = dict.fromkeys(clips, 0)
        self._held: dict[str, int] = {}
        self._gpu_actors: set[int] = set()
        self._running = _gauge("vace_batch_running")
        self._windows = _counter("vace_batch_windows_total", "status")
        self._made = _counter("vace_batch_frames_total")
        self._actors = _gauge("vace_batch_gpu_actors")
        self._busy = _counter("vace_batch_gpu_busy_seconds_total")
        self._queue = _gauge("vace_batch_queue_bytes")
        self._attempts = _counter("vace_batch_attempts_total", "kind")
        self._ended = _counter("vace_batch_clips_total", "status")
        self._verdicts = _counter("vace_batch_verdicts_total", "verdict")
        self._committed = _gauge("vace_batch_last_commit_timestamp_seconds")
        self._running.set(1)
        self._committed.set(clock())

    def add(self, event: Event) -> None:
        """Count an event. The graph may see the event later, so a clip's end is counted with the next event, or by
        `close`."""
        if isinstance(event, ActorReady | ActorDied):
            if event.pool == "gpu":
                (self._gpu_actors.add if isinstance(event, ActorReady) else self._gpu_actors.discard)(event.actor_id)
            self._actors.set(len(self._gpu_actors))
        elif isinstance(event, UnitStarted):
            self._attempts.inc(1, {"kind": event.unit.kind})
        elif isinstance(event, UnitDone | UnitFailed):
            self._end(event)

    def close(self) -> None:
        """Count the last clips and set the run's gauges to 0."""
        self._count_clips()
        self._running.set(0)
        self._actors.set(0)

    def _end(self, event: UnitDone | UnitFailed) -> None:
        unit = event.unit
        if unit.pool == "gpu":
            _add(self._busy, event.seconds)
        if unit.kind == StepKind.GENERATE:
            self._count_window(unit, "done" if isinstance(event, UnitDone) else "failed")
        if isinstance(event, UnitDone):
            self._done(unit, event.meta)
        for consumed in unit.inputs:
            self._held.pop(consumed, None)
        self._queue.set(sum(self._held.values()))
        self._count_clips()

    def _done(self, unit: Unit, meta: object) -> None:
        """Count the payload, the record and the verdict of a unit that is done."""
        if unit.leaves_bytes:
            self._held[unit.unit_id] = unit.leaves_bytes
        if unit.kind in (StepKind.GENERATE, StepKind.STITCH):
            self._committed.set(self._clock())
        if unit.kind == StepKind.MEASURE and isinstance(meta, dict):
            self._verdicts.inc(1, {"verdict": meta["verdict"]})

    def _count_window(self, unit: Unit, status: str) -> None:
        self._windows.inc(1, {"status": status})
        if status == "done":
            _add(self._made, self._frames[unit.key])

    def _count_clips(self) -> None:
        for status, count in self._clips.items():
            _add(self._ended, count - self._counted[status], {"status": status})
            self._counted[status] = count


def _counter(name: str, *tags: str) -> Counter:
    return Counter(name, METRICS[name], tags)


def _gauge(name: str) -> Gauge:
    return Gauge(name, METRICS[name])


def _add(counter: Counter, value: float, tags: dict[str, str] | None = None) -> None:
    """Add to a counter; Ray refuses to add 0."""
    if value > 0:
        counter.inc(value, tags)
