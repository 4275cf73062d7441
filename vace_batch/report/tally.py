"""What the report's summary counts, one clip at a time; its size does not grow with the number of clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vace_batch.ledger.results import STATUSES
from vace_batch.quality.verdict import VERDICTS
from vace_batch.report.rows import Clip

OUTCOMES = (*VERDICTS, "none")
_MINUTE_S = 60
_BUCKETS = 48
_STEPS_S = (60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400)


@dataclass(slots=True, kw_only=True)
class RemedyCount:
    """Further attempts of one kind: how many there were, passed and were kept, and what they took."""

    tried: int = 0
    passed: int = 0
    kept: int = 0
    gpu_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counters; `minutes` has clips and GPU-seconds by the minute of Unix time in which clips ended."""

    planned: int = 0
    status: Counter[str] = field(default_factory=Counter)
    verdict: Counter[str] = field(default_factory=Counter)
    task: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    profile_gpu_s: dict[str, float] = field(default_factory=dict)
    gpu_s: float = 0.0
    retry_gpu_s: float = 0.0
    windows: int = 0
    decisions: int = 0
    tried_again: int = 0
    remedies: dict[str, RemedyCount] = field(default_factory=dict)
    minutes: dict[int, tuple[int, float]] = field(default_factory=dict)
    first_s: float | None = None
    last_s: float | None = None

    def add(self, clip: Clip) -> None:
        """Count one clip."""
        self.planned += 1
        self.status[clip.status] += 1
        self.task[str(clip.job.get("task"))] += 1
        if clip.status == "done":
            self.verdict[clip.result.get("verdict") or "none"] += 1
        if clip.status == "failed":
            self.faults[str(clip.result.get("error_code"))] += 1
        self.gpu_s += clip.gpu_s
        self.retry_gpu_s += clip.result.get("retry_gpu_s") or 0.0
        self.windows += clip.result.get("windows") or 0
        if clip.gpu_s:
            self.profile_gpu_s[clip.profile] = self.profile_gpu_s.get(clip.profile, 0.0) + clip.gpu_s
        self._count_attempts(clip)
        ended = ended_s(clip)
        if ended is not None:
            self.first_s = min(ended, self.first_s or ended)
            self.last_s = max(ended, self.last_s or ended)
            clips, gpu_s = self.minutes.get(int(ended) // _MINUTE_S, (0, 0.0))
            self.minutes[int(ended) // _MINUTE_S] = (clips + 1, gpu_s + clip.gpu_s)

    def _count_attempts(self, clip: Clip) -> None:
        """By what was changed for them; what was made as asked is no further attempt."""
        further = list(enumerate(clip.attempts.get("attempts", ())))[1:]
        self.tried_again += bool(further)
        for number, attempt in further:
            count = self.remedies.setdefault(str(attempt.get("remedy")), RemedyCount())
            count.tried += 1
            count.passed += attempt.get("verdict") == "pass"
            count.kept += number == clip.attempts.get("chosen")
            count.gpu_s += attempt.get("gpu_s") or 0.0

    def check(self) -> None:
        """Assert that the counters add up."""
        ended = sum(self.status[name] for name in STATUSES)
        if ended != self.planned or sum(self.verdict.values()) != self.status["done"]:
            raise AssertionError(f"counters do not add up: {self}")

    def over_time(self) -> tuple[int, list[tuple[int, int, float]]]:
        """Seconds a step, and for each step its start in Unix time, clips ended and GPU-seconds; no gaps."""
        if not self.minutes:
            return _STEPS_S[0], []
        first = min(self.minutes) * _MINUTE_S
        last = max(self.minutes) * _MINUTE_S
        step = next((one for one in _STEPS_S if last // one - first // one < _BUCKETS), _STEPS_S[-1])
        totals = {start: (0, 0.0) for start in range(first // step * step, last + 1, step)}
        for minute, (clips, gpu_s) in self.minutes.items():
            start = minute * _MINUTE_S // step * step
            totals[start] = (totals[start][0] + clips, totals[start][1] + gpu_s)
        return step, [(start, clips, gpu_s) for start, (clips, gpu_s) in totals.items()]


def ended_s(clip: Clip) -> float | None:
    """When it ended, in Unix time; None where the results do not say."""
    text = clip.result.get("finished_at")
    if not text:
        return None
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
