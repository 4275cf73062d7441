"""The ledger and its counters."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from vace_batch.errors import UsageError
from vace_batch.ledger import run_plan
from vace_batch.ledger.garbage import find_garbage
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.results import write_results
from vace_batch.ledger.run_plan import PlannedJob, read_plan, write_plan
from vace_batch.ledger.schema import SCHEMA_VERSION
from vace_batch.ledger.summary import Summary, summarise
from vace_batch.storage import files as storage


def planned(n: int) -> list[PlannedJob]:
    return [
        PlannedJob(
            job_id=f"j{k}",
            clip_key=make_key("clip", k),
            prep_key=make_key("prep", k),
            output=f"videos/j{k}.mp4",
            row="{}",
        )
        for k in range(n)
    ]


def test_keys_follow_everything_in_them() -> None:
    assert make_key("window", 1, {"a": 2, "b": 3}) == make_key("window", 1, {"b": 3, "a": 2})
    assert make_key("window", 1) != make_key("window", "1")
    with pytest.raises(ValueError):
        make_key("window", float("nan"))


def test_commit_once_and_read_back(tmp_path: Path) -> None:
    ledger, key = Ledger(str(tmp_path)), make_key("window", 1)
    assert ledger.done(key) is None
    assert ledger.commit(key, {"artifact": "a"}) and not ledger.commit(key, {"artifact": "b"})
    record = ledger.done(key)
    assert record is not None and record["artifact"] == "a" and record["key"] == key
    assert ledger.keys("done") == {key} and ledger.keys("done", "clip") == set()


def test_forgiven_keys_are_pending_again(tmp_path: Path) -> None:
    ledger, key = Ledger(str(tmp_path)), make_key("clip", 1)
    ledger.quarantine(key, {"reason": "x"})
    assert ledger.keys("quarantine", "clip") == {key}
    ledger.forgive(key)
    assert ledger.failed(key) is None


def test_artifacts_are_relative_in_records(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    uri = ledger.artifact_uri(make_key("window", 1), ".mkv")
    assert uri != ledger.artifact_uri(make_key("window", 1), ".mkv")
    assert ledger.relative(uri).startswith("artifacts/") and ledger.absolute(ledger.relative(uri)) == uri


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


def test_half_an_answer_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may say less than there is; then it is asked again."""
    out = "memory://half-a-plan"
    write_plan(out, planned(3), {})
    whole, calls = storage.read_bytes, []

    def short_at_first(uri: str) -> bytes:
        data = whole(uri)
        calls.append(uri)
        return data[: len(data) // 2] if len([call for call in calls if call == uri]) == 1 else data

    monkeypatch.setattr(storage, "read_bytes", short_at_first)
    assert read_plan(out) == tuple(planned(3))
    assert sum(call.endswith(".parquet") for call in calls) == 2


def test_the_plan_of_an_unchanged_manifest_is_written_once(tmp_path: Path) -> None:
    out = str(tmp_path)
    write_plan(out, planned(2), {})
    first = storage.list_files(storage.join(out, "plan"))
    write_plan(out, planned(2), {})
    assert storage.list_files(storage.join(out, "plan")) == first
    write_plan(out, planned(3), {})
    assert len(storage.list_files(storage.join(out, "plan"))) == 2 and len(run_plan.read_plan(out)) == 3


@pytest.mark.parametrize(("found", "said"), [(None, "no schema version"), (SCHEMA_VERSION + 1, "schema version 2")])
def test_an_output_folder_of_another_version_is_refused(tmp_path: Path, found: int | None, said: str) -> None:
    out, jobs = str(tmp_path), planned(1)
    write_plan(out, jobs, {"manifest": "m"})
    run = storage.read_json(f"{out}/run.json")
    assert run.pop("schema_version") == SCHEMA_VERSION
    storage.publish(f"{out}/run.json", json.dumps(run if found is None else run | {"schema_version": found}).encode())
    for opens in (
        lambda: summarise(out),
        lambda: summarise(out, jobs),
        lambda: run_plan.read_run(out),
        lambda: read_plan(out),
        lambda: run_plan.find_job(out, "j0"),
        lambda: find_garbage(out),
        lambda: write_plan(out, jobs, {"manifest": "m"}),
    ):
        with pytest.raises(UsageError, match=rf"{out}: has {said}, expected {SCHEMA_VERSION}; give a new OUT"):
            opens()


def test_results_and_json_carry_the_schema_version(tmp_path: Path) -> None:
    out, jobs = str(tmp_path), planned(1)
    write_plan(out, jobs, {})
    Ledger(out).commit(jobs[0].clip_key, {"status": "done"})
    summary = summarise(out)
    write_results(summary)
    metadata = pq.read_schema(f"{out}/results/status=done/clips.parquet").metadata
    assert metadata[b"vace_batch.schema_version"] == str(SCHEMA_VERSION).encode()
    assert json.loads("".join(summary.as_json()))["schema_version"] == SCHEMA_VERSION
