"""A run watched from another process: the driver's heartbeat, and when watching ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import check_records
from vace_batch.batch.heartbeat import ENDED, GOES_ON, Heartbeat, cold_start, read_heartbeat
from vace_batch.batch.monitor import RunView, watch
from vace_batch.batch.progress import Progress
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger, now
from vace_batch.ledger.run_plan import PlannedJob, read_run, write_plan
from vace_batch.storage import files as storage

ROOT = Path(__file__).parents[2]
PROGRESS = Progress(
    clips=2,
    clips_done=1,
    clips_failed=0,
    clips_skipped=0,
    windows=4,
    windows_done=3,
    frames_done=120,
    gpu_busy=0.5,
    elapsed_s=60,
    firsts=("masks", "window"),
)


class Run:
    """A run of three clips, one finished before; this object is its driver and calls `then`, one at each sleep."""

    def __init__(self, out: str, *then: Any) -> None:
        self.out = out
        self.then = list(then)
        self.slept: list[float] = []
        planned = [PlannedJob(job_id=n, clip_key=f"clip-{n}", prep_key="p", output=n, row="{}") for n in "abc"]
        write_plan(out, planned, {"manifest": "m", "manifest_digest": "d", "options": {}})
        self.done("a")

    def done(self, name: str) -> None:
        Ledger(self.out).commit(f"clip-{name}", {"status": "done"})

    def tell(self, state: str, beat: int = 1) -> None:
        body = {"at": now(), "beat": beat, "state": state, "host": "h", "firsts": {"planned": 1.0}, "progress": None}
        storage.publish(storage.join(self.out, "progress.json"), json.dumps(body).encode())

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.then:
            self.then.pop(0)()

    def seen(self, **more: Any) -> list[RunView]:
        return list(watch(self.out, sleep=self.sleep, clock=lambda: sum(self.slept), **more))


@pytest.mark.parametrize("place", ["local", "memory://"])
def test_looking_ends_when_the_driver_says_so_and_not_when_the_last_clip_is_recorded(
    tmp_path: Path, place: str
) -> None:
    run = Run(str(tmp_path) if place == "local" else f"memory://{tmp_path.name}")
    run.then = [
        lambda: run.tell(GOES_ON),
        lambda: (run.done("b"), Ledger(run.out).quarantine("clip-c", {"status": "failed"})),
        lambda: run.tell(ENDED, 2),
    ]
    views = run.seen()
    assert [(view.done, view.failed, view.is_over) for view in views] == [
        (1, 0, False),
        (1, 0, False),
        (2, 1, False),
        (2, 1, True),
    ]


def test_a_run_that_was_killed_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    run = Run(str(tmp_path), lambda: None, lambda: None)
    run.tell(GOES_ON)
    run.then += [lambda: run.tell(GOES_ON, 2)]
    views = run.seen(every_s=2, silence_s=10)
    assert not views[-1].is_over and sum(run.slept) == 6 + 12


def test_what_an_earlier_run_told_does_not_end_this_one(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.tell(ENDED)
    time.sleep(0.002)
    again = Run(str(tmp_path))
    assert read_heartbeat(again.out, read_run(again.out)) is None
    assert not again.seen(silence_s=1)[-1].is_over
    with pytest.raises(UsageError, match="no run.json"):
        list(watch(str(tmp_path / "none")))


def test_the_driver_tells_where_it_is_and_how_long_it_took_to_start(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    seconds = iter([0.0, 2.0, 5.0, 5.0, 7.0])
    shown: list[Progress] = []
    with Heartbeat(run.out, every_s=0.01, clock=lambda: next(seconds)) as heartbeat:
        heartbeat.mark("planned")
        heartbeat.through(shown.append)(PROGRESS)
        heartbeat.mark("Ray")
        deadline = time.monotonic() + 20
        while (told := read_heartbeat(run.out, read_run(run.out))) is None or told["beat"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert shown == [PROGRESS] and told["state"] == GOES_ON
    assert "HeartbeatRecord" in check_records(tmp_path)
    [view] = run.seen()
    assert view.is_over and view.heartbeat is not None
    assert cold_start(view.heartbeat) == "first window after 5 s (planned 2, masks 5, Ray 7 s)"
    seen = view.as_progress()
    assert (seen.clips, seen.clips_finished, seen.windows_done, seen.frames_per_s) == (3, 1, 3, 2.0)
    assert "first window after 5 s" in str(seen)


def test_ctrl_c_leaves_a_terminal_as_it_was(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.tell(GOES_ON)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vace_batch", "status", run.out, "--watch"]
    with subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs) as watcher:
        os.close(theirs)
        said = b""
        while b"GPU busy" not in said:
            said += os.read(ours, 4096)
        watcher.send_signal(signal.SIGINT)
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:
                break
        assert watcher.wait(60) == 130, said
    assert b"Traceback" not in said and said.count(b"\x1b[?25l") == said.count(b"\x1b[?25h") == 1
