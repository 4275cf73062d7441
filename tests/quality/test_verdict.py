"""From metrics to a verdict: thresholds, and the checks of each task."""

from __future__ import annotations

from dataclasses import replace

from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings, Threshold
from vace_batch.quality.verdict import checks_of, judge

JOB = Job(job_id="a", video_uri="", task="removal")


def test_thresholds_make_the_verdict() -> None:
    settings = QualitySettings(seam=Threshold(review=3, fail=9))
    found = [judge({"seam": value}, ("seam",), settings) for value in (2.9, 3.0, 9.0)]
    assert [one.verdict for one in found] == ["pass", "review", "fail"]
    assert [one.rank for one in found] == sorted(one.rank for one in found)
    assert judge({"seam": 100.0}, ("gray",), settings).verdict == "pass"


def test_a_doubtful_mask_is_never_a_pass() -> None:
    doubt = "soft_mask: mask_uri: 39% of the pixels that are not black have levels between black and white"
    verdict = judge({}, ("gray",), QualitySettings(), doubts=[doubt])
    assert (verdict.verdict, verdict.checks) == ("review", ("mask",)) and doubt in verdict.reasons[0]
    assert judge({}, ("gray",), QualitySettings(), ["no frame"], [doubt]).verdict == "fail"


def test_only_checks_that_mean_something_are_made() -> None:
    assert "residual" in checks_of(JOB)
    for task, some, none in (
        ("inpainting", "outside", "residual"),
        ("restyle", "flicker", "outside"),
        ("outpainting", "seam", "foreign"),
        ("t2v", "gray", "flicker"),
    ):
        checks = checks_of(replace(JOB, task=task))
        assert some in checks and none not in checks
    assert "outside" in checks_of(replace(JOB, task="composition"))
    assert "outside" not in checks_of(replace(JOB, task="composition", control="gray"))
