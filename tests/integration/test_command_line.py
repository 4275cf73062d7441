"""The command line on real files and a real Ray: the contract that scripts rely on.

The first test has a local Ray and the real model classes, as a user has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.command_line import (
    BOX,
    ROOT,
    RUN_WITH_STAND_IN,
    Call,
    call,
    clip,
    manifest,
    outputs,
    removal,
    stamps,
    wait_for,
)
from vace_batch.ledger.ledger import Ledger


def test_a_batch_with_one_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check statuses, exit codes and JSON; a second run does nothing; once the missing file exists, its row is done."""
    good = clip(tmp_path / "good.mp4", 9)
    late = tmp_path / "late.mp4"
    empty = {"job_id": "nothing there", "video_uri": "good.mp4", "task": "removal", "mask_uri": "mask.png"}
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((64, 96), np.uint8))
    restyle = {
        "job_id": "restyle",
        "video_uri": str(good),
        "task": "restyle",
        "control": "gray",
        "prompt": "a painting",
    }
    rows = [removal("good", "good.mp4"), removal("late", late), empty, restyle]
    path, out = manifest(tmp_path / "m.parquet", rows), tmp_path / "out"

    monkeypatch.setenv("VACE_BATCH_EVENTS", str(tmp_path / "events.jsonl"))
    ran = call("run", path, "-o", out, "--json")
    monkeypatch.delenv("VACE_BATCH_EVENTS")
    assert ran.returncode == 1, ran.stderr
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    steps = {(e["step"], e["event"]) for e in events if e.get("job") == "good" and e["attempt"] == 1 and e["host"]}
    assert steps >= {(step, end) for step in ("prepare", "generate", "stitch") for end in ("started", "done")}
    summary = json.loads(ran.stdout)
    jobs = {job["job_id"]: job for job in summary["jobs"]}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "good": "done",
        "late": "failed",
        "nothing there": "skipped",
        "restyle": "done",
    }
    assert (summary["planned"], summary["done"], summary["failed"], summary["skipped"]) == (4, 2, 1, 1)
    assert set(jobs["late"]) == set(
        "job_id status output_uri error_code reason runs windows seconds verdict reasons".split()
    )
    assert jobs["late"]["error_code"] == "not_found" and "late.mp4" in jobs["late"]["reason"]
    assert jobs["late"]["output_uri"] is None and jobs["late"]["runs"] == 1
    copied = Path(jobs["nothing there"]["output_uri"])
    assert copied.read_bytes() == good.read_bytes() and copied.parent == out / "videos"
    assert sorted(p.name for p in (out / "videos").iterdir()) == sorted(["good.mp4", "restyle.mp4", copied.name])
    assert not list(out.rglob(".part-*"))

    before = stamps(out), outputs(out)
    again = call("run", path, "-o", out)
    assert again.returncode == 1 and "nothing to do" in again.stderr and "4 of 4" in again.stderr
    assert (stamps(out), outputs(out)) == before

    shown = call("status", out, "--json")
    assert shown.returncode == 1 and json.loads(shown.stdout) == summary

    clip(late, 9, shade=40)
    come = call("run", path, "-o", out)
    assert come.returncode == 0, come.stderr
    assert "planned 4 = done 3 + failed 0 + skipped 1" in come.stdout and "clips 1/1" in come.stderr
    assert stamps(out).items() >= before[0].items()


def test_an_interrupted_run_drains_and_says_so(tmp_path: Path) -> None:
    rows = [removal(f"c{k}", clip(tmp_path / f"c{k}.mp4", 40, shade=10 * k)) for k in range(4)]
    path, out = manifest(tmp_path / "m.parquet", rows), tmp_path / "out"
    with subprocess.Popen(
        [*RUN_WITH_STAND_IN, "run", str(path), "-o", str(out), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as driver:
        wait_for(lambda: len(Ledger(str(out)).keys("done", "window")) >= 1, driver)
        driver.send_signal(signal.SIGTERM)
        stdout, stderr = driver.communicate(timeout=600)
    assert driver.returncode == 130, stderr
    summary = json.loads(stdout)
    assert summary["pending"] >= 1
    assert summary["planned"] == 4 == sum(summary[name] for name in ("done", "failed", "skipped", "pending"))


def test_ten_faults_are_ten_lines(tmp_path: Path) -> None:
    good = removal("x", "v.mp4")
    bad: list[dict[str, Any]] = [
        {**good, "job_id": ""},
        {**good, "job_id": "b", "video_uri": ""},
        {**good, "job_id": "c", "task": "remvoe"},
        {**good, "job_id": "d", "boxes": [{**BOX, "width": -3}]},
        {**good, "job_id": "e", "boxes": [{**BOX, "x": float("nan")}]},
        {**good, "job_id": "f", "boxes": None},
        {**good, "job_id": "g", "video_uri": "http://127.0.0.1:9/x.mp4"},
        {**good, "job_id": "h", "dilate": "lots"},
        {**good, "job_id": "i", "start_s": 5.0, "end_s": 2.0},
        {**good, "job_id": "j", "seed": -1},
    ]
    path = manifest(tmp_path / "m.parquet", bad)
    for command in (["validate", path], ["run", path, "-o", tmp_path / "out"]):
        result = call(*command)
        lines = result.stderr.strip().splitlines()
        assert result.returncode == 2 and result.stdout == "" and len(lines) == 10, result.stderr
        assert [line.split(",")[0].split(" (")[0].rstrip(":") for line in lines] == [f"row {row}" for row in range(10)]
        assert all("got" in line and "expected" in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_retry_runs_failed_rows_again_and_status_needs_a_run(tmp_path: Path, quick_call: Call) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    path, out = manifest(tmp_path / "m.parquet", [removal("broken", broken)]), tmp_path / "out"
    assert quick_call("run", path, "-o", out).returncode == 1
    assert quick_call("retry", out, "--job", "other").returncode == 2
    again = quick_call("retry", out, "--json")
    assert again.returncode == 1 and json.loads(again.stdout)["jobs"][0]["error_code"] == "not_a_video"
    assert quick_call("status", tmp_path).returncode == 2


def test_retry_may_read_more_than_the_run(tmp_path: Path, quick_call: Call) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    video = clip(tmp_path / "elsewhere" / "a.mp4", 9)
    path, out = manifest(tmp_path / "in" / "m.parquet", [removal("a", video)]), tmp_path / "in" / "out"
    refused = quick_call("run", path, "-o", out, "--json")
    assert json.loads(refused.stdout)["jobs"][0]["error_code"] == "not_allowed", refused.stderr
    allowed = quick_call("retry", out, "--allow-root", tmp_path / "elsewhere", "--json")
    assert allowed.returncode == 0 and json.loads(allowed.stdout)["done"] == 1, allowed.stderr
    # Workers of a joined cluster have another working directory.
    relative = os.path.relpath(tmp_path / "in" / "relative", ROOT)
    again = quick_call("run", path, "-o", relative, "--allow-root", tmp_path / "elsewhere", "--json")
    assert again.returncode == 0 and outputs(tmp_path / "in" / "relative") == outputs(out), again.stderr


def test_plan_writes_nothing_and_counts_what_is_left(tmp_path: Path) -> None:
    rows = [removal("a", clip(tmp_path / "a.mp4", 40)), removal("gone", "gone.mp4")]
    path = manifest(tmp_path / "m.parquet", rows)
    result = call("plan", path, "--json")
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert [(c["state"], c["windows"], c["shots"]) for c in found["clips"]] == [("todo", 2, 1), ("failed", 0, 0)]
    assert found["windows"] == 2 and found["tokens"] > 0 and found["gpu_s"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "m.parquet"]


def test_done_means_that_the_video_is_there(tmp_path: Path, quick_call: Call) -> None:
    """Run, change an option, run, change it back, run; delete an output, cut another, run; verify before and after."""
    clip(tmp_path / "one.mp4", 9)
    clip(tmp_path / "two.mp4", 9, shade=40)
    path = manifest(tmp_path / "m.parquet", [removal("one", "one.mp4"), removal("two", "two.mp4")])
    out = tmp_path / "out"
    assert quick_call("run", path, "-o", out).returncode == 0
    first, windows = outputs(out), stamps(out)
    other = quick_call("run", path, "-o", out, "--crf", "40")
    assert other.returncode == 0 and outputs(out) != first
    back = quick_call("run", path, "-o", out)
    assert back.returncode == 0 and outputs(out) == first and stamps(out) == windows
    assert "videos/one.mp4 was made with other settings: not finished; made again" in back.stderr
    checked = quick_call("verify", out)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout

    (out / "videos" / "one.mp4").unlink()
    os.truncate(out / "videos" / "two.mp4", 1000)
    checked = quick_call("verify", out, "--json")
    problems = json.loads(checked.stdout)["problems"]
    assert checked.returncode == 1 and [problem["job_id"] for problem in problems] == ["one", "two"]
    lines = quick_call("verify", out).stdout.splitlines()
    assert lines[0] == "one: videos/one.mp4 is missing" and lines[1].startswith("two: videos/two.mp4 is cut off: 1,000")
    again = quick_call("retry", out)
    assert again.returncode == 0 and outputs(out) == first and stamps(out) == windows, again.stderr
    assert quick_call("verify", out).returncode == 0
