"""The results: a dataset by status, with the schema version."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tests.support.records import planned_jobs as planned
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.results import write_results
from vace_batch.ledger.run_plan import read_plan, write_plan
from vace_batch.ledger.schema import SCHEMA_VERSION
from vace_batch.ledger.summary import summarise


def test_summary_adds_up_and_results_are_a_dataset(tmp_path: Path) -> None:
    out, jobs = str(tmp_path), planned(4)
    write_plan(out, jobs, {"manifest": "m.parquet"})
    assert read_plan(out) == tuple(jobs)
    ledger = Ledger(out)
    window = {
        "key": "window-1",
        "region": 0,
        "start": 0,
        "stop": 9,
        "num_frames": 9,
        "width": 64,
        "height": 64,
        "seed": 1,
    }
    ledger.commit(
        jobs[0].clip_key,
        {"status": "done", "windows": 1, "seconds": 1.5, "runs": 1, "window_rows": [{**window, "seconds": 1.0}]},
    )
    ledger.commit(jobs[1].clip_key, {"status": "skipped", "reason": "nothing to remove"})
    ledger.quarantine(jobs[2].clip_key, {"status": "failed", "error_code": "not_found", "reason": "gone", "runs": 1})
    summary = summarise(out)
    assert (summary.planned, summary.done, summary.skipped, summary.failed, summary.pending) == (4, 1, 1, 1, 1)
    assert [job["status"] for job in summary.jobs] == ["done", "skipped", "failed"]
    assert summary.jobs[0]["output_uri"] == f"{out}/videos/j0.mp4" and summary.jobs[2]["output_uri"] is None
    told = json.loads("".join(summary.as_json()))
    assert told["jobs"][2] == {name: summary.jobs[2][name] for name in told["jobs"][2]} and told["windows"] == 1
    brief = summarise(out, shown_only=True)
    assert json.loads("".join(brief.as_json())) == told and brief.jobs[0]["window_rows"] == []
    write_results(summary)
    write_results(summary)
    table = ds.dataset(str(tmp_path / "results"), partitioning="hive").to_table().to_pylist()
    assert sorted((row["job_id"], row["status"]) for row in table) == [
        ("j0", "done"),
        ("j1", "skipped"),
        ("j2", "failed"),
    ]
    assert next(row for row in table if row["job_id"] == "j0")["window_rows"][0]["num_frames"] == 9


def test_results_and_json_carry_the_schema_version(tmp_path: Path) -> None:
    out, jobs = str(tmp_path), planned(1)
    write_plan(out, jobs, {})
    Ledger(out).commit(jobs[0].clip_key, {"status": "done"})
    summary = summarise(out)
    write_results(summary)
    metadata = pq.read_schema(f"{out}/results/status=done/clips.parquet").metadata
    assert metadata[b"vace_batch.schema_version"] == str(SCHEMA_VERSION).encode()
    assert json.loads("".join(summary.as_json()))["schema_version"] == SCHEMA_VERSION
