"""Verdicts read from the ledger: under the run's thresholds and under others, with and without attempts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from vace_batch.ledger.ledger import Ledger, make_key, quality_key
from vace_batch.ledger.schema import AttemptRecord, AttemptsRecord, QualityRecord
from vace_batch.ledger.verdicts import Verdicts, attempt_record, no_verdict, verdict_of, with_verdict
from vace_batch.manifest.job import Dilation, Job
from vace_batch.options import QualitySettings, Threshold
from vace_batch.quality.remedies import Attempt

SETTINGS = QualitySettings()
LENIENT = QualitySettings(seam=Threshold(review=50.0))
GOOD, DOUBTFUL, FAILED = (make_key("clip", number) for number in range(3))
JOB = Job(job_id="a", video_uri="/v.mp4", task="removal", dilate=Dilation(px=4.0))


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Two measured clips; the third one failed before."""
    for clip, seam in ((GOOD, 0.0), (DOUBTFUL, 9.0)):
        record: QualityRecord = {"clip_key": clip, "checks": ["seam"], "metrics": {"seam": seam}, "broken": []}
        Ledger(str(tmp_path)).commit(quality_key(clip), with_verdict(record, SETTINGS))
    return str(tmp_path)


def attempts(out: str, *verdicts: str) -> None:
    """Record attempts at the doubtful clip, of which the last is chosen."""
    made: list[AttemptRecord] = [
        attempt_record(
            Attempt(
                remedy=f"{number}",
                job=JOB,
                model="tiny",
                clip_key=make_key("clip", 9, number),
                output="x",
                max_frames=81,
                verdict=verdict,  # type: ignore[arg-type]
                score=0.0,
                gpu_s=2.0,
                metrics={"seam": 1.0},
            )
        )
        for number, verdict in enumerate(verdicts)
    ]
    record: AttemptsRecord = {
        "clip_key": DOUBTFUL,
        "attempts": made,
        "chosen": len(made) - 1,
        "retry_gpu_s": 2.0 * (len(made) - 1),
    }
    Ledger(out).commit(make_key("attempts", DOUBTFUL, len(made)), record)


def rows(out: str, settings: QualitySettings, *, whole: bool) -> list[object]:
    verdicts = Verdicts(out, settings, whole=whole)
    keys = [GOOD, DOUBTFUL, FAILED]
    return list(verdicts.rows(keys, verdicts.find(pa.chunked_array([keys]))))


def counts(out: str, settings: QualitySettings) -> dict[str, int]:
    return Verdicts(out, settings).counts(pa.chunked_array([[GOOD, DOUBTFUL, FAILED]]))


def test_a_brief_reading_has_verdict_and_reasons_a_whole_one_the_metrics(out: str) -> None:
    good, doubtful, failed = rows(out, SETTINGS, whole=False)
    assert isinstance(doubtful, dict) and isinstance(good, dict)
    assert (good["verdict"], doubtful["verdict"], failed) == ("pass", "review", no_verdict())
    assert "border of the fill" in doubtful["reasons"][0] and doubtful["metrics"] is None
    _, whole, _ = rows(out, SETTINGS, whole=True)
    assert isinstance(whole, dict) and json.loads(whole["metrics"]) == {"seam": 9.0} and whole["checks"] == ["seam"]
    assert counts(out, SETTINGS) == {"pass": 1, "review": 1}


@pytest.mark.parametrize("whole", [False, True])
def test_other_thresholds_make_the_verdict_again(out: str, whole: bool) -> None:
    _, row, _ = rows(out, LENIENT, whole=whole)
    assert isinstance(row, dict) and (row["verdict"], row["reasons"]) == ("pass", [])
    assert counts(out, LENIENT) == {"pass": 2}
    assert Verdicts(out, LENIENT).passing() == {GOOD, DOUBTFUL}
    assert Verdicts(out, SETTINGS).passing() == {GOOD}


def test_of_several_attempts_the_chosen_one_of_the_latest_record_counts(out: str) -> None:
    attempts(out, "review", "fail")
    assert counts(out, SETTINGS) == {"pass": 1, "fail": 1}
    attempts(out, "review", "fail", "pass")
    assert counts(out, SETTINGS) == {"pass": 2}
    _, row, _ = rows(out, SETTINGS, whole=True)
    assert isinstance(row, dict) and (row["verdict"], row["retry_gpu_s"]) == ("pass", 4.0)
    told = json.loads(row["attempts"])
    assert told["chosen"] == 2 and told["attempts"][0]["settings"]["dilate"] == "4 px"
    assert Verdicts(out, SETTINGS).further_gpu_s(pa.chunked_array([[GOOD, DOUBTFUL]])) == 4.0


def test_a_clip_that_could_not_be_measured_is_for_review() -> None:
    record: QualityRecord = {"metrics": {}, "checks": ["seam"], "broken": [], "unmeasured": "timeout: it hung"}
    verdict = verdict_of(record, SETTINGS)
    assert verdict.verdict == "review" and verdict.reasons == ("the clip could not be measured: timeout: it hung",)
