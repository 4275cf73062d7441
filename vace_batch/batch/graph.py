"""The order of a batch's steps: a unit goes to the dispatcher when the steps before it have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from vace_batch import log
from vace_batch.batch.attempts import Another, Attempts
from vace_batch.batch.budget import Budget
from vace_batch.batch.step_units import keep_unit, measure_unit, prepare_unit, select_best_unit, stitch_unit
from vace_batch.batch.window_queue import WindowQueue
from vace_batch.cluster.units import Failure, Unit
from vace_batch.costs import StepKind
from vace_batch.errors import ClusterError, LostError
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.schema import FailureRecord, QualityRecord
from vace_batch.ledger.verdicts import attempt_record
from vace_batch.quality.remedies import best_of
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.measure import unmeasured

_LOG = log.get_logger(__name__)


@dataclass(slots=True)
class _Prepared:
    """A clip between prepare and stitch: its plan, and the keys of the windows that are not generated yet."""

    plan: ClipPlan
    missing: set[str]


@dataclass(slots=True)
class _ClipState:
    """One attempt at a clip. `status` is set by stitch, `attempts` for every attempt after the first."""

    work: ClipWork
    attempts: Attempts | None = None
    prepared: _Prepared | None = None
    status: str = "done"
    failed: bool = False


@dataclass(slots=True)
class _Folder:
    """An output folder: its ledger, and the keys of the clips and windows that are done in it."""

    ledger: Ledger
    clips: set[str]
    windows: set[str]


class ClipGraph:
    """Orders the steps of each clip: prepare, then build and generate of each missing window, then stitch and measure.
    After a verdict other than pass, where the run allows further attempts, all of this happens again with one change,
    and at the end select_best keeps the best attempt.

    Two clips that need the same window wait for the same units. `another` makes the work of a clip's next attempt.
    """

    def __init__(
        self,
        works: Iterable[ClipWork],
        unkept: Collection[str] = (),
        another: Another | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Take the clips of a run; `unkept` are the keys of clips that are done except for keeping their masks."""
        self._unkept = unkept
        self._another = another
        self._budget = budget or Budget()
        self._clips = {work.clip_key: _ClipState(work) for work in works}
        self._folders = {out: _open_folder(out) for out in {state.work.out for state in self._clips.values()}}
        self._windows = WindowQueue(self._budget)
        self._unlooked: deque[str] = deque()
        self._looking: set[str] = set()
        self.num_clips = len(self._clips)
        self.status = {"done": 0, "failed": 0, "skipped": 0}
        self._after_done: dict[str, Callable[[str, object], Iterator[Unit]]] = {
            StepKind.PREPARE: self._prepared,
            StepKind.BUILD: self._built,
            StepKind.GENERATE: self._generated,
            StepKind.STITCH: self._stitched,
            StepKind.MEASURE: self._measured,
            StepKind.SELECT_BEST: self._best_selected,
            StepKind.KEEP: self._kept,
        }
        self._after_failed: dict[str, Callable[[Unit, Failure], Iterator[Unit]]] = {
            StepKind.PREPARE: self._clip_failed,
            StepKind.BUILD: self._window_failed,
            StepKind.GENERATE: self._window_failed,
            StepKind.STITCH: self._clip_failed,
            StepKind.MEASURE: self._measure_failed,
            StepKind.SELECT_BEST: self._select_best_failed,
            StepKind.KEEP: self._clip_failed,
        }

    @property
    def frames(self) -> dict[str, int]:
        """The number of frames of each window that had to be made, by key, as far as clips are prepared."""
        return self._windows.frames

    def jobs_of(self, unit: Unit) -> list[str]:
        """Return the ids of the jobs that need a unit."""
        is_window = unit.kind in (StepKind.BUILD, StepKind.GENERATE)
        clips = self._windows.clips_of(unit.key) if is_window else [unit.key]
        return [self._clips[clip].work.job.job_id for clip in clips]

    # --- the beginning ---

    def first_units(self) -> Iterator[Unit]:
        prepared: dict[str, set[str]] = {}
        if self._budget.is_set:
            prepared = {out: folder.ledger.keys("done", "prep") for out, folder in self._folders.items()}
        for key, state in self._clips.items():
            if key in self._unkept:
                yield keep_unit(state.work)
            elif prepared and state.work.prep_key not in prepared[state.work.out]:
                self._unlooked.append(key)
            else:
                yield prepare_unit(state.work)
        yield from self._prepare_more()

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        return [*self._after_done[unit.kind](unit.key, meta), *self._go_on(unit)]

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        """Fail a clip with its first failing step; clips that only share the window fail with it.

        Raises:
            ClusterError: the storage is full, which is no clip's fault.
            LostError: the store refuses the credentials of the run, which is no clip's fault either.
        """
        if failure.code == "store_lost":
            raise LostError(failure.reason)
        if failure.code == "storage_full":
            raise ClusterError(f"{failure.reason}; free some space and run the same command again to continue")
        return [*self._after_failed[unit.kind](unit, failure), *self._go_on(unit)]

    def _go_on(self, unit: Unit) -> Iterator[Unit]:
        """Begin the windows and clips that the budget allows now that `unit` has ended."""
        self._looking.discard(unit.unit_id)
        self._budget.end(unit.unit_id)
        yield from self._windows.begin(lambda clips: any(not self._clips[clip].failed for clip in clips))
        yield from self._prepare_more()

    def _prepare_more(self) -> Iterator[Unit]:
        """Prepare further clips, as far as the budget allows."""
        while self._unlooked and len(self._looking) < self._budget.looks_at_once and self._budget.look():
            unit = prepare_unit(self._clips[self._unlooked.popleft()].work)
            self._looking.add(unit.unit_id)
            yield unit

    # --- a step is done ---

    def _prepared(self, clip: str, plan: object) -> Iterator[Unit]:
        assert isinstance(plan, ClipPlan)
        state = self._clips[clip]
        work = state.work
        folder = self._folders[work.out]
        if clip in folder.clips:
            state.prepared = _Prepared(plan, set())
            yield stitch_unit(work, plan)  # finds the clip's record and ends at once
            return
        windows = {work.window_key(planned, plan.region_of(planned)): planned for planned in plan.windows}
        state.prepared = _Prepared(plan, set(windows) - folder.windows)
        for key, planned in windows.items():
            if key not in state.prepared.missing:
                continue
            if key in self._windows.failures:
                yield from self._fail(clip, *self._windows.failures[key])
                return
            self._windows.add(key, work, plan, planned)
        if not state.prepared.missing:
            yield stitch_unit(work, plan)

    def _built(self, window: str, meta: object) -> Iterator[Unit]:
        yield from ()

    def _generated(self, window: str, meta: object) -> Iterator[Unit]:
        for clip in self._windows.finish(window):
            state = self._clips[clip]
            self._folders[state.work.out].windows.add(window)
            if state.prepared is None:  # the clip has failed
                continue
            state.prepared.missing.discard(window)
            if not state.prepared.missing:
                yield stitch_unit(state.work, state.prepared.plan)

    def _stitched(self, clip: str, status: object) -> Iterator[Unit]:
        state = self._clips[clip]
        assert state.prepared is not None
        plan = state.prepared.plan
        state.prepared = None
        state.status = str(status)
        # Nothing was made where nothing was found, so there is nothing to judge.
        is_skipped = state.status == "skipped" and state.attempts is None
        if state.work.options.quality.enabled and not is_skipped:
            yield measure_unit(state.work, plan)
        else:
            self._finish(clip)

    def _measured(self, clip: str, record: object) -> Iterator[Unit]:
        assert isinstance(record, dict)
        state = self._clips[clip]
        attempts = state.attempts or Attempts(state.work)
        attempts.add_measured(state.work, cast(QualityRecord, record))
        yield from self._attempt_again(attempts)

    def _best_selected(self, clip: str, meta: object) -> Iterator[Unit]:
        self._finish(clip)
        yield from ()

    def _kept(self, clip: str, status: object) -> Iterator[Unit]:
        self._clips[clip].status = str(status)
        self._finish(clip)
        yield from ()

    # --- a step has failed ---

    def _clip_failed(self, unit: Unit, failure: Failure) -> Iterator[Unit]:
        return self._fail(unit.key, unit, failure)

    def _window_failed(self, unit: Unit, failure: Failure) -> Iterator[Unit]:
        for clip in self._windows.fail(unit, failure):
            yield from self._fail(clip, unit, failure)

    def _measure_failed(self, unit: Unit, failure: Failure) -> Iterator[Unit]:
        """Record the done clip as unmeasured. The next run measures the clip again if that may succeed."""
        work = self._clips[unit.key].work
        record = unmeasured(work, str(failure), again=failure.retryable)
        self._folders[work.out].ledger.commit(quality_key(unit.key), record)
        self._warn(work, "the finished clip could not be measured", failure)
        yield from self._measured(unit.key, record)

    def _select_best_failed(self, unit: Unit, failure: Failure) -> Iterator[Unit]:
        self._warn(self._clips[unit.key].work, "the best attempt could not be put in its place", failure)
        self._finish(unit.key)
        yield from ()

    def _fail(self, clip: str, unit: Unit, failure: Failure) -> Iterator[Unit]:
        state = self._clips[clip]
        if state.failed:
            return
        state.failed = True
        state.prepared = None
        self._quarantine(state.work, unit, failure)
        if state.attempts is None:
            self.status["failed"] += 1
        else:  # the clip is done by an earlier attempt
            state.attempts.add_failed(state.work, str(failure))
            yield from self._attempt_again(state.attempts)

    def _quarantine(self, work: ClipWork, unit: Unit, failure: Failure) -> None:
        ledger = self._folders[work.out].ledger
        record: FailureRecord = {
            "status": "failed",
            "job_id": work.job.job_id,
            "output": work.output,
            "step": unit.kind,
            "error_code": failure.code,
            "reason": failure.reason,
            "retryable": failure.retryable,
            "runs": failure.attempts,
            "windows": 0,
            "seconds": 0.0,
            "settings": work.settings,
        }
        if failure.traceback:
            ledger.note_mishap(work.clip_key, step=unit.kind, traceback=failure.traceback)
        if unit.kind != StepKind.KEEP:  # a clip whose masks cannot be kept is done
            ledger.quarantine(work.clip_key, record)
        self._warn(work, f"{unit.kind} failed", failure)

    # --- the end of an attempt ---

    def _attempt_again(self, attempts: Attempts) -> Iterator[Unit]:
        """Begin the clip's next attempt, or end the clip."""
        first = attempts.first
        work = None if self._another is None else attempts.next_work(self._another)
        if work is not None and self._budget.is_over:
            self._finish(first.clip_key)  # a later run goes on with its attempts
        elif work is not None:
            self._clips[work.clip_key] = _ClipState(work, attempts)
            with log.bind(clip=first.job.job_id):
                _LOG.info("attempt %d: %s", len(attempts.made) + 1, attempts.remedy)
            yield prepare_unit(work)
        elif self._another is None or attempts.is_settled:
            self._finish(first.clip_key)
        else:
            records = [attempt_record(attempt) for attempt in attempts.made]
            yield select_best_unit(first, records, best_of(attempts.made))

    def _finish(self, clip: str) -> None:
        state = self._clips[clip]
        self.status[state.status] += 1
        with log.bind(clip=state.work.job.job_id):
            _LOG.debug("%s", state.status)

    def _warn(self, work: ClipWork, message: str, failure: Failure) -> None:
        with log.bind(clip=work.job.job_id):
            _LOG.warning("%s: %s", message, failure)


def _open_folder(out: str) -> _Folder:
    ledger = Ledger(out)
    return _Folder(ledger, ledger.keys("done", "clip"), ledger.keys("done", "window"))
