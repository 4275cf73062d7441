"""The story of one clip: its records in the ledger, and the lines that people read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.report_out import make_filmed_out
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.schema import ClipRecord, FailureRecord, WindowRow
from vace_batch.report.explain import as_lines, explain

CLIP = f"clip-{0:032x}"
WINDOW: WindowRow = {
    "key": "window-00",
    "region": 0,
    "start": 5,
    "stop": 22,
    "num_frames": 17,
    "width": 64,
    "height": 48,
    "seed": 1,
    "seconds": 2.5,
}


def test_an_unfinished_clip_has_a_plan_and_its_mishaps(tmp_path: Path) -> None:
    out = make_filmed_out(tmp_path / "film")
    Ledger(out).note_mishap(CLIP, step="stitch", traceback="Traceback\n  line\nValueError: odd")
    story = explain(out, "square")
    json.dumps(story)
    assert (story["row"], story["windows"], story["quality"]) == (None, [], None)
    lines = list(as_lines(story))
    assert lines[0].startswith("square: removal of ") and "plan      30 frames, 1 shots; 10 frames masked" in lines[1]
    assert lines[-2].startswith("mishap    20") and lines[-2].endswith("ValueError: odd")
    assert lines[-1] == "state     not finished"


def test_a_finished_clip_shows_windows_predicted_and_real_seconds(tmp_path: Path) -> None:
    out = make_filmed_out(tmp_path / "film")
    record: ClipRecord = {
        "status": "done",
        "windows": 1,
        "seconds": 4.0,
        "runs": 2,
        "predicted_gpu_s": 3.0,
        "window_rows": [WINDOW],
    }
    Ledger(out).commit(CLIP, record)
    lines = list(as_lines(explain(out, "square")))
    assert "window    frames 5..21, 64x48x17, 2.5 s: window-00" in lines
    assert lines[-2:] == ["state     done; 4.0 s, 2 runs", "GPU       predicted 3.0 s, real 2.5 s"]


def test_a_failed_clip_says_why(tmp_path: Path) -> None:
    out = make_filmed_out(tmp_path / "film")
    record: FailureRecord = {"status": "failed", "error_code": "damaged_video", "reason": "it breaks", "runs": 1}
    Ledger(out).quarantine(CLIP, record)
    assert list(as_lines(explain(out, "square")))[-1] == "state     failed: damaged_video: it breaks; 0.0 s, 1 runs"


def test_a_skipped_clip_says_what_was_not_found(tmp_path: Path) -> None:
    out = make_filmed_out(tmp_path / "film")
    reason = "no person was found in 9 frames looked at"
    Ledger(out).commit(CLIP, {"status": "skipped", "reason": reason, "windows": 0, "runs": 1, "seconds": 1.0})
    lines = list(as_lines(explain(out, "square")))
    assert lines[-1] == f"state     skipped: {reason}; 1.0 s, 1 runs"
    assert not [line for line in lines if line.startswith("verdict")]


def test_a_job_that_the_run_did_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the last run has no job 'circle'"):
        explain(make_filmed_out(tmp_path / "film"), "circle")
