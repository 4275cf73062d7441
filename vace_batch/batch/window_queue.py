"""The windows of a batch: the clips that wait for each window, and the windows that have begun or failed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterator

from vace_batch.batch.budget import Budget
from vace_batch.batch.step_units import window_units
from vace_batch.cluster.units import Failure, Unit
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow

_Entry = tuple[int, int, str, ClipWork, ClipPlan, PlannedWindow]


class WindowQueue:
    """Windows wait here, the highest priority first, until the budget lets them begin. A window that several clips need
    is generated once, and all of them wait for it.

    `frames` has the number of frames of each window that has begun, `failures` the unit and failure of each lost
    window.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._clips: dict[str, set[str]] = {}
        self._heap: list[_Entry] = []
        self._count = itertools.count()
        self.frames: dict[str, int] = {}
        self.failures: dict[str, tuple[Unit, Failure]] = {}

    def clips_of(self, key: str) -> list[str]:
        """Return the keys of the clips that wait for a window."""
        return sorted(self._clips.get(key, ()))

    def add(self, key: str, work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> None:
        """Let a clip wait for a window; queue the window if no other clip has done so."""
        if key not in self._clips:
            self._clips[key] = set()
            heapq.heappush(self._heap, (-work.job.priority, next(self._count), key, work, plan, planned))
        self._clips[key].add(work.clip_key)

    def begin(self, is_needed: Callable[[Collection[str]], bool]) -> Iterator[Unit]:
        """Yield the units of the next windows, as far as the budget lets them begin.

        A window is dropped if `is_needed`, called with the keys of the clips that wait for it, returns False.
        """
        while self._heap:
            *_, key, work, plan, planned = self._heap[0]
            if is_needed(self._clips[key]):
                build, generate = window_units(work, plan, planned, key)
                if not self._budget.may_begin(generate.unit_id, generate.expected):
                    return
                self.frames[key] = planned.window.num_frames
                heapq.heappop(self._heap)
                yield build
                yield generate
            else:
                heapq.heappop(self._heap)
                del self._clips[key]

    def finish(self, key: str) -> list[str]:
        """Record that a window is generated. Returns the clips that waited for it."""
        return sorted(self._clips.pop(key, ()))

    def fail(self, unit: Unit, failure: Failure) -> list[str]:
        """Record that a window cannot be made. Returns the clips that waited for it."""
        self.failures[unit.key] = unit, failure
        return self.finish(unit.key)
