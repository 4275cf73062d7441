"""The report's counters: by verdict, remedy and step of time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.support.report_out import result
from vace_batch.report.rows import Clip
from vace_batch.report.tally import Tally, ended_s

ATTEMPTS = {
    "chosen": 1,
    "attempts": [{"remedy": "first"}, {"remedy": "seed", "verdict": "pass", "gpu_s": 2.0}, {"remedy": "seed"}],
}


def clip(number: int, **fields: object) -> Clip:
    row = result(number, **fields)
    return Clip(
        number=number, job_id=f"{number}", status=row["status"], prep_key="p", job={"task": "removal"}, result=row
    )


def test_clips_are_counted_by_status_verdict_and_remedy() -> None:
    tally = Tally()
    tally.add(clip(0, attempts=json.dumps(ATTEMPTS), retry_gpu_s=2.0))
    tally.add(clip(4))
    tally.add(clip(5))
    tally.add(clip(1, verdict=None))
    tally.check()
    assert tally.status == {"done": 3, "failed": 1} and tally.verdict == {"pass": 1, "review": 1, "none": 1}
    assert tally.faults == {"damaged_video": 1} and (tally.tried_again, tally.retry_gpu_s) == (1, 2.0)
    seed = tally.remedies["seed"]
    assert (seed.tried, seed.passed, seed.kept, seed.gpu_s) == (2, 1, 1, 2.0) and set(tally.remedies) == {"seed"}
    tally.planned += 1
    with pytest.raises(AssertionError, match="do not add up"):
        tally.check()


def test_steps_of_time_have_no_gaps_and_are_few() -> None:
    tally = Tally()
    assert tally.over_time() == (60, [])
    for minute in (0, 0, 3):
        tally.add(clip(0, finished_at=f"2026-11-23T01:{minute:02}:30+00:00"))
    step, steps = tally.over_time()
    assert step == 60 and [clips for _, clips, _ in steps] == [2, 0, 0, 1]
    tally.add(clip(0, finished_at="2026-11-25T01:00:00+00:00"))
    step, steps = tally.over_time()
    assert len(steps) <= 49 and sum(clips for _, clips, _ in steps) == 4 and step > 60
    assert sum(gpu_s for _, _, gpu_s in steps) == pytest.approx(tally.gpu_s)


def test_a_time_without_a_zone_is_utc() -> None:
    aware = clip(0, finished_at="2026-11-23T01:00:00+00:00")
    naive = replace(aware, result={"finished_at": "2026-11-23T01:00:00"})
    assert ended_s(aware) == ended_s(naive) and ended_s(replace(aware, result={})) is None
