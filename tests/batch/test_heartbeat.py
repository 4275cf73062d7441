"""The heartbeat of a run's driver in OUT/progress.json."""

from __future__ import annotations

from pathlib import Path

from vace_batch.batch.heartbeat import ENDED, Heartbeat, cold_start


def test_an_output_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Heartbeat(str(tmp_path / "file")) as heartbeat:
        heartbeat.mark("planned")


def test_the_cold_start_names_each_first_time_and_says_when_no_window_was_made() -> None:
    firsts = {"planned": 2.0, "Ray": 7.4, "masks": 5.0}
    assert cold_start({"state": ENDED, "firsts": firsts}) == "no window (planned 2, masks 5, Ray 7 s)"
    assert cold_start({"state": "goes on", "firsts": firsts}).startswith("no window yet (")
    assert cold_start({"state": ENDED, "firsts": firsts | {"window": 94.0}}).startswith("first window after 94 s (")
