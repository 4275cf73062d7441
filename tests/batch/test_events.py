"""Events of a run as structured log lines, in the file that is asked for or in the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vace_batch import log
from vace_batch.batch.events import EventLog
from vace_batch.cluster.events import ActorDied, ActorReady, UnitDone, UnitFailed, UnitRan, UnitStarted
from vace_batch.cluster.units import Failure, Unit


def test_events_go_to_the_file_that_is_asked_for_with_job_window_attempt_and_host_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(log.EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    monkeypatch.setattr("vace_batch.batch.events.host_of", lambda node: f"host of {node}")
    log.configure(level="info", json_lines=True)
    fn = "vace_batch.batch.workers:any"
    made = Unit(kind="generate", key="window-w", pool="gpu", fn=fn)
    lost = Unit(kind="prepare", key="clip-c", pool="cpu", fn=fn)
    reason = "https://somebody:hunter2@example.org/v.mp4?X-Amz-Signature=abc cannot be read"
    failure = Failure(unit_id=lost.unit_id, code="not_found", reason=reason, retryable=True, attempts=3)
    jobs = {made.unit_id: ["a", "b"], lost.unit_id: ["c"]}
    events = EventLog(lambda unit: jobs[unit.unit_id])
    with log.bind(run="r1"):
        for event in (
            ActorReady(pool="gpu", actor_id=1, seconds=2.0, node="n"),
            UnitStarted(unit=made, actor_id=1, attempt=2),
            UnitRan(unit=made, ok=False, seconds=0.5),
            UnitRan(unit=made, ok=True, seconds=1.5),
            UnitDone(unit=made, meta=None, seconds=1.5),
            UnitFailed(unit=lost, failure=failure, seconds=0.5),
            ActorDied(pool="gpu", actor_id=1, cause="memory", detail="killed", unit_ids=()),
        ):
            events.add(event)
    text = (tmp_path / "events.jsonl").read_text()
    ready, started, lost_run, done, failed, died = map(json.loads, text.splitlines())
    assert ready["event"] == "actor ready" and ready["host"] == died["host"] == "host of n"
    where = {"run": "r1", "step": "generate", "job": "a", "shared_with": ["b"], "window": "window-w"}
    assert where.items() <= started.items() and where.items() <= done.items()
    assert (lost_run["event"], lost_run["attempt"], lost_run["seconds"]) == ("run without result", 2, 0.5)
    assert started["attempt"] == done["attempt"] == 2 and done["host"] == "host of n" and done["seconds"] == 1.5
    assert (failed["event"], failed["job"], failed["code"]) == ("failed", "c", "not_found")
    assert "hunter2" not in text and "abc" not in text
    assert capsys.readouterr().err == "", "the log itself is no louder"
    monkeypatch.delenv(log.EVENTS_VARIABLE)
    log.configure(level="debug", json_lines=True)
    events.add(UnitDone(unit=made, meta=None, seconds=1.5))
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["done"]
    assert (tmp_path / "events.jsonl").read_text() == text
    log.configure(level="info", json_lines=True)
