"""The remedy that is tried next with a clip that is not good enough, and which attempt is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from vace_batch.manifest.job import BoxKey, Dilation, Job, LoraRef, Sampling
from vace_batch.options import AttemptSettings
from vace_batch.quality.remedies import Attempt, Remedy, best_of, next_remedy

BOX = BoxKey(x=8, y=8, width=16, height=16)
JOB = Job(job_id="a", video_uri="v.mp4", task="removal", boxes=(BOX,))
SETTINGS = AttemptSettings(max_attempts=9)


def attempt(remedy: str = "first", verdict: str = "review", score: float = 2.0, **fields: Any) -> Attempt:
    plain = Attempt(
        remedy=remedy,
        job=JOB,
        model="tiny",
        clip_key=remedy,
        output=remedy,
        max_frames=81,
        verdict=verdict,
        score=score,
        windows=1,
    )
    return replace(plain, **fields)


def steps(
    checks: Sequence[str], settings: AttemptSettings = SETTINGS, *, has_lora: bool = False, **fields: Any
) -> list[str]:
    """The remedies that follow each other while nothing helps."""
    attempts, found = [attempt(checks=tuple(checks), **fields)], []
    while (step := next_remedy(attempts, settings, has_lora=has_lora)) is not None:
        found.append(step.name)
        attempts.append(attempt(step.name, score=3.0, checks=tuple(checks)))
    return found


def test_the_remedy_fits_the_fault() -> None:
    assert steps(["residual"])[:3] == ["dilate", "hull", "box"]
    assert steps(["gray"])[0] == "seed" and "dilate" not in steps(["gray"])
    assert steps(["blur"])[0] == "crop"
    assert steps(["outside"]) == steps(["contract"]) == []
    assert steps(["seam", "blur"])[-1] == "crop"


def test_no_more_than_allowed_and_nothing_twice() -> None:
    assert steps(["residual"], AttemptSettings(max_attempts=3)) == ["dilate", "hull"]
    assert steps(["residual"], AttemptSettings(max_attempts=1)) == []
    assert steps(["residual"], AttemptSettings(max_attempts=9, remedies=("box", "seed"))) == ["box", "seed"]
    every = steps(["residual", "blur"], AttemptSettings(max_attempts=9, model="big"), has_lora=True)
    assert len(every) == len(set(every)) == 8


def test_remedies_that_change_nothing_are_left_out() -> None:
    assert "seed" not in steps(["residual"], windows=0)
    assert "hull" not in steps(["residual"], job=replace(JOB, mask_shape="hull"))
    assert "background" not in steps(["seam"], job=replace(JOB, background="off"))
    whole = replace(JOB, boxes=(), task="restyle")
    assert steps(["flicker"], job=whole) == ["seed"]
    for other in (
        replace(JOB, loras=(LoraRef(uri="x"),)),
        replace(JOB, preset="removal-lora"),
        replace(JOB, task="restyle"),
    ):
        assert "removal-lora" not in steps(["residual"], has_lora=True, job=other)
    assert "removal-lora" not in steps(["residual"], has_lora=True, windows=0)


@pytest.mark.parametrize(
    ("remedy", "check", "changed", "model"),
    [
        ("dilate", "residual", replace(JOB, dilate=Dilation(px=15.0)), "tiny"),
        ("hull", "residual", replace(JOB, mask_shape="hull"), "tiny"),
        ("box", "residual", replace(JOB, mask_shape="box"), "tiny"),
        ("seed", "gray", replace(JOB, seed=7919), "tiny"),
        ("removal-lora", "gray", replace(JOB, preset="removal-lora"), "tiny"),
        ("crop", "blur", replace(JOB, sampling=Sampling(max_frames=37, overlap_frames=7)), "tiny"),
        ("background", "seam", replace(JOB, background="off"), "tiny"),
        ("model", "blur", JOB, "big"),
    ],
)
def test_a_remedy_changes_one_thing(remedy: str, check: str, changed: Job, model: str) -> None:
    settings = AttemptSettings.model_validate({"max_attempts": 2, "remedies": (remedy,), "model": "big"})
    step = next_remedy([attempt(checks=(check,))], settings, has_lora=True)
    assert step == Remedy(name=remedy, job=changed, model=model)


def test_each_step_builds_on_the_best_so_far() -> None:
    first = attempt(checks=("residual",))
    wider = next_remedy([first], SETTINGS)
    assert wider is not None and wider.job.dilate == Dilation(px=15.0)
    better = attempt("dilate", score=1.5, checks=("residual",), job=wider.job)
    worse = attempt("dilate", score=9.0, checks=("residual",), job=wider.job)
    kept, dropped = (next_remedy([first, second], SETTINGS) for second in (better, worse))
    assert kept is not None and dropped is not None
    assert (kept.name, kept.job.dilate, kept.job.mask_shape) == ("hull", Dilation(px=15.0), "hull")
    assert (dropped.name, dropped.job.dilate) == ("hull", None)
    exact = next_remedy([attempt(checks=("residual",), job=replace(JOB, boxes=(), mask_uri="m.mkv"))], SETTINGS)
    assert exact is not None and exact.job.dilate == Dilation(px=7.5), "a mask file's own dilation is smaller"
    cropped = next_remedy([attempt(checks=("blur",))], SETTINGS)
    assert cropped is not None and cropped.job.sampling == Sampling(max_frames=37, overlap_frames=7)


def test_the_best_is_by_verdict_then_score_then_the_first() -> None:
    assert best_of([attempt(), attempt(verdict="pass", score=0), attempt(verdict="pass", score=0)]) == 1
    assert best_of([attempt(score=2), attempt(score=1), attempt(verdict="fail", score=0.5)]) == 1
    assert best_of([attempt(verdict="fail", score=9), attempt(error="lost")]) == 0
    assert next_remedy([attempt(checks=("seam",)), attempt("dilate", verdict="pass", score=0)], SETTINGS) is None
