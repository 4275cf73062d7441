"""What comes after what in a batch: the units of each clip, handed to the dispatcher as those before them are done."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from vace_batch import log
from vace_batch.batch.attempts import Another, Climb
from vace_batch.batch.budget import Budget
from vace_batch.cluster.units import Failure, Unit
from vace_batch.costs import Used
from vace_batch.errors import ClusterError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.records import Record
from vace_batch.ledger.verdicts import quality_key
from vace_batch.quality.remedies import best_of
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.steps.measure import unmeasured
from vace_batch.steps.prediction import build_cost, finish_cost, window_cost

_LOG = log.get_logger(__name__)

_BUILD_FIRST, _THEN_STITCH = 20_000, 10_000
"""Above every job's priority: what feeds the GPUs goes first, what ends a clip goes before what begins one."""


_NOTHING = Used()


class ClipGraph:
    """What comes after what: prepare, then build and generate of each missing window, then stitch, then measure;
    where the verdict is no pass and the run allows it, the same again with something changed, then settle on the best.

    Windows are shared: two clips that need the same one wait for the same unit. `another` makes the work of a clip's
    next attempt, to be written to a name in OUT.
    """

    def __init__(
        self,
        works: Iterable[ClipWork],
        unkept: Collection[str] = (),
        another: Another | None = None,
        budget: Budget | None = None,
    ) -> None:
        """`unkept` are those of `works` that are done but for keeping their masks."""
        self._unkept = unkept
        self._works = {work.clip_key: work for work in works}
        self._another = another
        self._budget = budget or Budget()
        self._unlooked: deque[str] = deque()
        self._looking: set[str] = set()
        self._count = itertools.count()
        self._unbegun: list[tuple[int, int, str, ClipWork, ClipPlan, PlannedWindow]] = []
        self.num_clips = len(self._works)
        self._climbs: dict[str, Climb] = {}
        self._plans: dict[str, ClipPlan] = {}
        self._missing: dict[str, set[str]] = {}
        self._waiting: dict[str, set[str]] = defaultdict(set)
        self._failed: set[str] = set()
        self._ledgers = {work.out: Ledger(work.out) for work in self._works.values()}
        self._done_clips = {out: ledger.keys("done", "clip") for out, ledger in self._ledgers.items()}
        self._done_windows = {out: ledger.keys("done", "window") for out, ledger in self._ledgers.items()}
        self._lost: dict[str, tuple[Unit, Failure]] = {}
        self._ended: dict[str, str] = {}
        self.frames: dict[str, int] = {}
        self.status = {"done": 0, "failed": 0, "skipped": 0}

    @property
    def num_windows(self) -> int:
        """Windows that had to be made, as far as clips are prepared."""
        return len(self.frames)

    def jobs_of(self, unit: Unit) -> list[str]:
        """The jobs that a unit is for."""
        kind, key = unit.unit_id.split("/", 1)
        clips = sorted(self._waiting.get(key, ())) if kind in ("build", "generate") else [key]
        return [self._works[clip].job.job_id for clip in clips]

    def first_units(self) -> Iterator[Unit]:
        known = (
            {out: ledger.keys("done", "prep") for out, ledger in self._ledgers.items()} if self._budget.is_set else {}
        )
        for key, work in self._works.items():
            if key in self._unkept:
                yield self._unit(work, "keep", f"keep/{key}", work, priority=work.job.priority)
            elif known and work.prep_key not in known[work.out]:
                self._unlooked.append(key)
            else:
                yield self._prepare(key)
        yield from self._look_on()

    def _look_on(self) -> Iterator[Unit]:
        """The next clips, as far as the budget lets them be looked at."""
        while self._unlooked and len(self._looking) < self._budget.looks_at_once and self._budget.look():
            unit = self._prepare(self._unlooked.popleft())
            self._looking.add(unit.unit_id)
            yield unit

    def _begin(self) -> Iterator[Unit]:
        """The next windows, as far as the budget lets them begin."""
        while self._unbegun:
            *_, key, work, plan, planned = self._unbegun[0]
            if self._waiting[key] <= self._failed:
                del self._waiting[key]
            elif self._budget.may_begin(f"generate/{key}", window_cost(work, plan, planned)):
                yield from self._window_units(work, plan, key, planned)
            else:
                return
            heapq.heappop(self._unbegun)

    def _after(self, unit: Unit) -> Iterator[Unit]:
        """What may begin now that this unit has ended."""
        self._looking.discard(unit.unit_id)
        self._budget.end(unit.unit_id)
        yield from self._begin()
        yield from self._look_on()

    def _prepare(self, clip: str) -> Unit:
        work = self._works[clip]
        return self._unit(work, "prepare", f"prepare/{clip}", work, priority=work.job.priority)

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        return [*self._done(unit, meta), *self._after(unit)]

    def _done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        if unit.kind == "prepare":
            assert isinstance(meta, ClipPlan)
            return list(self._windows(unit.unit_id.removeprefix("prepare/"), meta))
        if unit.kind == "generate":
            return list(self._after_window(unit.unit_id.removeprefix("generate/")))
        if unit.kind == "stitch":
            return list(self._after_stitch(unit.unit_id.removeprefix("stitch/"), str(meta)))
        if unit.kind == "measure":
            assert isinstance(meta, dict)
            return list(self._after_measure(unit.unit_id.removeprefix("measure/"), meta))
        if unit.kind == "keep":
            self._ended[unit.unit_id.removeprefix("keep/")] = str(meta)
        if unit.kind in ("keep", "settle"):
            self._finish(unit.unit_id.split("/", 1)[1])
        return ()

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        """A clip fails with its first failing step; clips that only share the window fail with it.

        Raises:
            ClusterError: there is no room left to write to, which is no clip's fault.
        """
        if failure.code == "storage_full":
            raise ClusterError(f"{failure.reason}; make room and give the same command again, it continues")
        return [*self._not_done(unit, failure), *self._after(unit)]

    def _not_done(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        kind, key = unit.unit_id.split("/", 1)
        if kind == "measure":  # the clip is done, whatever became of its numbers
            return list(self._unmeasured(key, failure))
        if kind == "settle":
            self._warn(key, "the best attempt could not be put in its place", failure)
            self._finish(key)
            return ()
        if kind in ("prepare", "stitch", "keep"):
            clips = {key}
        else:
            self._lost[key] = unit, failure
            clips = self._waiting.pop(key, set())
        return [following for clip in sorted(clips) for following in self._fail(clip, unit, failure)]

    def _fail(self, clip: str, unit: Unit, failure: Failure) -> Iterator[Unit]:
        if clip in self._failed:
            return
        self._failed.add(clip)
        self._plans.pop(clip, None)
        self._quarantine(self._works[clip], unit, failure)
        if clip in self._climbs:  # a further attempt: the clip is done by an earlier one
            climb = self._climbs[clip]
            climb.add_failed(self._works[clip], f"{failure.code}: {failure.reason}")
            yield from self._climb(climb)
        else:
            self.status["failed"] += 1

    def _windows(self, clip: str, plan: ClipPlan) -> Iterator[Unit]:
        work = self._works[clip]
        self._plans[clip] = plan
        if clip in self._done_clips[work.out]:
            yield self._stitch(clip)  # its record is there
            return
        keys = {work.window_key(planned, plan.region_of(planned)): planned for planned in plan.windows}
        self._missing[clip] = set(keys) - self._done_windows[work.out]
        for key in [key for key in keys if key in self._missing[clip]]:
            if key in self._lost:
                yield from self._fail(clip, *self._lost[key])
                return
            if key not in self._waiting:
                place = (-work.job.priority, next(self._count))
                heapq.heappush(self._unbegun, (*place, key, work, plan, keys[key]))
            self._waiting[key].add(clip)
        if not self._missing[clip]:
            yield self._stitch(clip)

    def _window_units(self, work: ClipWork, plan: ClipPlan, key: str, planned: PlannedWindow) -> Iterator[Unit]:
        size, frames = plan.region_of(planned).size, planned.window.num_frames
        self.frames[f"generate/{key}"] = frames
        payload = (work, plan, planned)
        leaves = frames * size.width * size.height * 4
        yield self._unit(
            work,
            "build",
            f"build/{key}",
            payload,
            leaves_bytes=leaves,
            priority=_BUILD_FIRST + work.job.priority,
            expected=build_cost(work, plan, planned),
        )
        shape = (
            f"{work.model}@{work.revision}/{work.out}/{size}x{frames}/{len(work.job.reference_uris)}/{work.sampling}"
        )
        yield replace(
            self._unit(
                work,
                "generate",
                f"generate/{key}",
                (work.model, work.revision, work.out),
                priority=work.job.priority,
                expected=window_cost(work, plan, planned),
            ),
            pool="gpu",
            inputs=(f"build/{key}",),
            batch_key=shape,
        )

    def _after_window(self, key: str) -> Iterator[Unit]:
        for clip in sorted(self._waiting.pop(key, ())):
            self._done_windows[self._works[clip].out].add(key)
            self._missing[clip].discard(key)
            if not self._missing[clip] and clip not in self._failed:
                yield self._stitch(clip)

    def _stitch(self, clip: str) -> Unit:
        work, plan = self._works[clip], self._plans[clip]
        priority, expected = _THEN_STITCH + work.job.priority, finish_cost(work, plan)["stitch"]
        return self._unit(work, "stitch", f"stitch/{clip}", (work, plan), priority=priority, expected=expected)

    def _after_stitch(self, clip: str, status: str) -> Iterator[Unit]:
        """A clip is looked at when it is finished; what it is to be called is known before."""
        work, plan = self._works[clip], self._plans.pop(clip)
        self._ended[clip] = status
        if not work.options.quality.enabled:
            self._finish(clip)
            return
        priority, expected = _THEN_STITCH + work.job.priority, finish_cost(work, plan)["measure"]
        yield self._unit(work, "measure", f"measure/{clip}", (work, plan), priority=priority, expected=expected)

    def _after_measure(self, clip: str, record: Record) -> Iterator[Unit]:
        climb = self._climbs.get(clip) or Climb(self._works[clip])
        climb.add_measured(self._works[clip], record)
        yield from self._climb(climb)

    def _climb(self, climb: Climb) -> Iterator[Unit]:
        """The clip's next attempt, or its end."""
        first = climb.first
        work = None if self._another is None else climb.next_work(self._another)
        if work is not None and self._budget.is_over:
            self._finish(first.clip_key)  # a later run goes on with its attempts
        elif work is not None:
            self._works[work.clip_key], self._climbs[work.clip_key] = work, climb
            with log.bind(clip=first.job.job_id):
                _LOG.info("attempt %d: %s", len(climb.attempts) + 1, climb.remedy)
            yield self._prepare(work.clip_key)
        elif self._another is None or climb.is_settled:
            self._finish(first.clip_key)
        else:
            payload = (first, [attempt.as_record() for attempt in climb.attempts], best_of(climb.attempts))
            priority = _THEN_STITCH + first.job.priority
            yield self._unit(first, "settle", f"settle/{first.clip_key}", payload, priority=priority)

    def _finish(self, clip: str) -> None:
        status = self._ended.pop(clip)
        self.status[status] += 1
        with log.bind(clip=self._works[clip].job.job_id):
            _LOG.debug("%s", status)

    def _unmeasured(self, clip: str, failure: Failure) -> Iterator[Unit]:
        work, ledger = self._works[clip], self._ledgers[self._works[clip].out]
        record = unmeasured(work, f"{failure.code}: {failure.reason}")
        ledger.commit(quality_key(clip), record)
        self._warn(clip, "the finished clip could not be measured", failure)
        yield from self._after_measure(clip, record)

    def _warn(self, clip: str, what: str, failure: Failure) -> None:
        with log.bind(clip=self._works[clip].job.job_id):
            _LOG.warning("%s: %s: %s", what, failure.code, failure.reason)

    def _unit(
        self,
        work: ClipWork,
        kind: str,
        unit_id: str,
        payload: object,
        *,
        priority: int,
        leaves_bytes: int = 0,
        expected: Used = _NOTHING,
    ) -> Unit:
        return Unit(
            unit_id=unit_id,
            kind=kind,
            pool="cpu",
            fn=f"vace_batch.batch.workers:{kind}",
            payload=payload,
            leaves_bytes=leaves_bytes,
            priority=priority,
            time_limit_s=work.options.unit_time_limit_s,
            expected=expected,
        )

    def _quarantine(self, work: ClipWork, unit: Unit, failure: Failure) -> None:
        ledger = self._ledgers[work.out]
        body: Record = {"status": "failed", "job_id": work.job.job_id, "output": work.output, "step": unit.kind}
        body |= {"error_code": failure.code, "reason": failure.reason, "retryable": failure.retryable}
        body |= {"runs": failure.attempts, "windows": 0, "seconds": 0.0, "settings": work.settings}
        if failure.traceback:
            ledger.note_mishap(work.clip_key, {"step": unit.kind, "traceback": failure.traceback})
        if unit.kind != "keep":  # that clip is done
            ledger.quarantine(work.clip_key, body)
        with log.bind(clip=work.job.job_id):
            _LOG.warning("%s failed: %s: %s", unit.kind, failure.code, failure.reason)
