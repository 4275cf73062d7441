"""Judge a clip's metrics by thresholds: pass, review or fail, with the reasons as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings, Threshold

VerdictName = Literal["pass", "review", "fail"]

VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)
"""From best to worst."""

REASONS = {
    "residual": "the object is still there: {percent:.0f}% of it is left",
    "unchanged": "nothing was changed under the mask in {percent:.0f}% of its frames",
    "missed": "the object shows in {value:.0f} frames without a mask, beside or between frames with one",
    "uncovered": "the mask is too small: {percent:.0f}% of the pixels just outside it look like the object",
    "detected": "the detector still finds the object in {percent:.0f}% of the sampled frames",
    "appeared": "the detector finds a new object in {percent:.0f}% of the sampled frames",
    "foreign": "{percent:.0f}% of the fill has colours that its surroundings do not have: another object is there",
    "gray": "{percent:.0f}% of the fill is plain gray: nothing was generated there",
    "seam": "the border of the fill shows, by at least {value:.1f} levels",
    "flicker": "the fill flickers or does not move with its surroundings, by {value:.1f} levels",
    "step": "the fill changes colour from one frame to the next, by {value:.1f} levels",
    "unlike": "the fill is not the background that other frames show in its place, by {value:.1f} levels",
    "blur": "the fill is smoother than its surroundings: at least {percent:.0f}% of their contrast is missing",
    "texture": "the fill is rougher than its surroundings: they lack at least {percent:.0f}% of its contrast",
    "outside": "the picture changed outside the mask, by {value:.1f} levels",
}
"""The sentence of every check that has a metric and thresholds."""

_ANY_FILL = ("gray", "step", "flicker")
_IN_PLACE = (*_ANY_FILL, "seam", "blur", "outside")
_PAINTED = (*_IN_PLACE, "unlike", "texture", "foreign")
_REMOVAL = (*_PAINTED, "residual", "unchanged", "missed", "uncovered", "detected", "appeared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one clip. `score` is how far the clip is over the thresholds, 0 for a pass; `reasons`, and the
    `checks` that gave them, come worst first."""

    verdict: VerdictName
    score: float
    reasons: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: best first."""
        return VERDICTS.index(self.verdict), self.score


def checks_of(job: Job) -> tuple[str, ...]:
    """Select the checks that suit a job: a restyle removes no object, a frame that is new as a whole has no outside."""
    if job.task == "removal":
        return _REMOVAL
    if job.task in ("inpainting", "outpainting", "extension") or (job.task == "composition" and not job.controls):
        return _IN_PLACE
    return _ANY_FILL if job.task == "restyle" else ("gray",)


def judge(
    metrics: Mapping[str, float],
    checks: Sequence[str],
    settings: QualitySettings,
    broken: Sequence[str] = (),
    doubts: Sequence[str] = (),
) -> Verdict:
    """Judge a clip's `metrics` by the thresholds of `checks`; a fault in `broken` fails the clip, and a clip with
    `doubts` about its masks is for review."""
    findings = [_Finding("fail", 2.0, f"the file is broken: {fault}", "contract") for fault in broken]
    findings += [_Finding("review", 1.0, f"the mask is doubtful: {doubt}", "mask") for doubt in doubts]
    for check in checks:
        finding = _finding(check, metrics.get(check, 0.0), settings.threshold(check))
        if finding is not None:
            findings.append(finding)
    findings.sort(key=lambda finding: (-VERDICTS.index(finding.verdict), -finding.excess))
    return Verdict(
        verdict=findings[0].verdict if findings else "pass",
        score=round(sum(finding.excess for finding in findings), 3),
        reasons=tuple(finding.reason for finding in findings),
        checks=tuple(finding.check for finding in findings),
    )


class _Finding(NamedTuple):
    """One check that found something; `excess` is the value in units of the review threshold."""

    verdict: VerdictName
    excess: float
    reason: str
    check: str


def _finding(check: str, value: float, threshold: Threshold) -> _Finding | None:
    """Judge the value of one check; None below its thresholds."""
    if value < threshold.review:
        return None
    verdict: VerdictName = "fail" if threshold.fail is not None and value >= threshold.fail else "review"
    excess = value / threshold.review if threshold.review else 1 + value
    return _Finding(verdict, excess, REASONS[check].format(percent=100 * value, value=value), check)
