"""One clip's attempts while a batch runs: what was made, and the work of what comes next."""

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
"""A clip's first work, what is to change and a name in OUT -> the work of that attempt."""


class Attempts:
    """Attempts at one clip, in order; after a crash the ledger gives the same ones again, and nothing is done twice."""

    def __init__(self, first: ClipWork) -> None:
        self.first = first
        self.made: list[Attempt] = []
        self.remedy = FIRST
        self._has_lora = any(lora.preset == "removal-lora" for lora in first.options.loras)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be recorded: the run tries no more than once, or the first attempt was good."""
        return self.first.options.attempts.max_attempts == 1 or self.made[0].verdict == "pass"

    def add_measured(self, work: ClipWork, record: QualityRecord) -> None:
        """An attempt was finished and measured, whatever came of that."""
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
        """An attempt came to nothing."""
        self.made.append(replace(self._blank(work), error=reason))

    def next_work(self, another: Another) -> ClipWork | None:
        """The work of the next attempt; None when there is to be none. What failed before is not tried again."""
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
