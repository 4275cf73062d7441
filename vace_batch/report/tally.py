"""Count clips for the report's summary, one at a time, in memory that does not grow with their number."""

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
    """Further attempts with one remedy: how many were tried, passed and kept, and their GPU-seconds."""

    tried: int = 0
    passed: int = 0
    kept: int = 0
    gpu_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counters; `minutes` has the clips that ended and their GPU-seconds, by minute of Unix time."""

    planned: int = 0
    status: Counter[str] = field(default_factory=Counter)
    verdict: Counter[str] = field(default_factory=Counter)
    task: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    profile_gpu_s: dict[str, float] = field(default_factory=dict)
    gpu_s: float = 0.0
    retry_gpu_s: float = 0.0
    windows: int = 0
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
        """Count attempts after the first by their remedy."""
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
        """Group by steps of time: seconds a step, then (start in Unix time, clips ended, GPU-seconds) without gaps."""
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
    """Read the Unix time at which a clip ended; None for a clip without one."""
    text = clip.result.get("finished_at")
    if not text:
        return None
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
