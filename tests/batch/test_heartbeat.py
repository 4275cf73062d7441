"""The heartbeat of a run's driver in OUT/progress.json."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vace_batch.batch.heartbeat import ENDED, PATIENCE_S, Heartbeat, cold_start
from vace_batch.errors import StoreLostError


def test_an_output_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Heartbeat(str(tmp_path / "file")) as heartbeat:
        heartbeat.mark("planned")


def test_the_cold_start_names_each_first_time_and_says_when_no_window_was_made() -> None:
    firsts = {"planned": 2.0, "Ray": 7.4, "masks": 5.0}
    assert cold_start({"state": ENDED, "firsts": firsts}) == "no window was generated (planned 2, masks 5, Ray 7 s)"
    assert cold_start({"state": "goes on", "firsts": firsts}).startswith("no window is generated yet (")
    assert cold_start({"state": ENDED, "firsts": firsts | {"window": 94.0}}).startswith("first window after 94 s (")


def test_a_store_that_does_not_answer_for_long_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Heartbeat("memory://heartbeat-of-a-lost-store") as heartbeat:
        stop = heartbeat.watching(lambda: False)
        assert not stop(), "before the first mark"
        heartbeat.mark("planned")
        assert not stop()
        later = time.monotonic() + PATIENCE_S + 1
        monkeypatch.setattr("vace_batch.batch.heartbeat.time.monotonic", lambda: later)
        with pytest.raises(StoreLostError, match="has not answered for 4[01] s; the same command continues the run"):
            stop()


def test_a_full_disk_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with Heartbeat(str(tmp_path / "file")) as heartbeat:
        later = time.monotonic() + PATIENCE_S + 1
        heartbeat.mark("planned")
        monkeypatch.setattr("vace_batch.batch.heartbeat.time.monotonic", lambda: later)
        heartbeat._beat("goes on")
        heartbeat.check_store()
