"""The attempts at one clip while a batch runs: finished ones, and the work of the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vace_batch.errors import ClipError, UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.schema import QualityRecord
from vace_batch.ledger.verdicts import verdict_of
from vace_batch.quality.remedies import FIRST, Attempt, Remedy, next_remedy
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.select_best import attempt_name

Another = Callable[[ClipWork, Remedy, str], ClipWork]
"""Makes the work of an attempt from the clip's first work, the remedy, and a name in OUT."""


class Attempts:
    """The attempts at one clip, in order.

    After a crash the ledger gives the same attempts again, and no step is done twice.
    """

    def __init__(self, first: ClipWork) -> None:
        self.first = first
        self.made: list[Attempt] = []
        self.remedy = FIRST
        self._has_lora = any(lora.preset == "removal-lora" for lora in first.options.loras)

    @property
    def is_settled(self) -> bool:
        """Whether no choice is left to record: the run makes one attempt at most, or the first attempt passed."""
        return self.first.options.attempts.max_attempts == 1 or self.made[0].verdict == "pass"

    def add_measured(self, work: ClipWork, record: QualityRecord) -> None:
        """Add an attempt that was finished and measured."""
        verdict = verdict_of(record, work.options.quality)
        self.made.append(
            replace(
                self._blank(work),
                verdict=verdict.verdict,
                score=verdict.score,
                reasons=verdict.reasons,
                checks=verdict.checks,
                windows=record["windows"],
                gpu_s=record["gpu_s"],
                metrics=record["metrics"],
            )
        )

    def add_failed(self, work: ClipWork, reason: str) -> None:
        """Add an attempt that failed."""
        self.made.append(replace(self._blank(work), error=reason))

    def next_work(self, another: Another) -> ClipWork | None:
        """Make the work of the next attempt; None if no remedy is left. Attempts that failed in an earlier run are
        skipped."""
        while (remedy := next_remedy(self.made, self.first.options.attempts, has_lora=self._has_lora)) is not None:
            self.remedy = remedy.name
            name = attempt_name(self.first, "+".join((*(one.remedy for one in self.made[1:]), remedy.name)))
            try:
                work = another(self.first, remedy, name)
            except (ClipError, UsageError) as error:
                self.add_failed(replace(self.first, job=remedy.job, model=remedy.model, output=name), str(error))
                continue
            failed = Ledger(work.out).failed(work.clip_key)
            if failed is None:
                return work
            self.add_failed(work, f"{failed['error_code']}: {failed['reason']}")
        return None

    def _blank(self, work: ClipWork) -> Attempt:
        return Attempt(
            remedy=self.remedy,
            job=work.job,
            model=work.model,
            clip_key=work.clip_key,
            output=work.output,
            max_frames=work.limits.max_frames,
        )
