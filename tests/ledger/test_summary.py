"""The summary of a run: counters that add up, and which record of a clip counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.records import planned_jobs as planned
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.run_plan import write_plan
from vace_batch.ledger.summary import Summary, summarise


def test_what_was_done_in_the_end_counts(tmp_path: Path) -> None:
    out, jobs = str(tmp_path), planned(2)
    write_plan(out, jobs, {"manifest": "m.parquet"})
    for job in jobs:
        Ledger(out).quarantine(job.clip_key, {"status": "failed", "reason": f"of {job.job_id}: \udcff"})
    Ledger(out).commit(jobs[1].clip_key, {"status": "done"})
    summary = summarise(out, shown_only=True)
    assert [job["status"] for job in summary.jobs] == ["failed", "done"] and summary.jobs[-1]["reason"] is None
    assert [job["reason"] for job in summary.of("failed")] == ["of j0: \\udcff"]


def test_counters_that_do_not_add_up_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="do not add up"):
        Summary(out="o", planned=3, done=1, failed=0, skipped=0, pending=0, windows=0, jobs=())


def test_a_folder_that_is_no_output_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json"):
        summarise(str(tmp_path))
