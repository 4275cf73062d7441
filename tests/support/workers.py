"""Functions that the actors of these tests run, addressed as `tests.support.workers:name`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

from vace_batch.cluster.units import Call, Finish, Outcome
from vace_batch.errors import ClipError


def make_state(*, name: str) -> dict[str, str]:
    return {"name": name}


def failing_setup() -> None:
    raise RuntimeError("weights are missing")


def make(state: object, calls: list[Call]) -> list[Outcome]:
    """Return an array of `payload["size"]` elements, all equal to `payload["value"]`."""
    outcomes = []
    for call in calls:
        job = call.payload
        assert isinstance(job, dict)
        time.sleep(job.get("sleep_s", 0.0))
        array = np.full(job["size"], job["value"], np.int64)
        outcomes.append(Outcome(meta=os.getpid(), payload=array))
    return outcomes


def add_up(state: object, calls: list[Call]) -> list[Outcome]:
    """Sum the inputs; also return the size of the batch."""
    outcomes = []
    for call in calls:
        job = call.payload if isinstance(call.payload, dict) else {}
        time.sleep(job.get("sleep_s", 0.0))
        total = sum(int(np.asarray(array).sum()) for array in call.inputs)
        outcomes.append(Outcome(meta={"sum": total, "batch": len(calls), "state": state, "pid": os.getpid()}))
    return outcomes


def behave(state: object, calls: list[Call]) -> list[Outcome]:
    """Obey each payload: a word, or a word and an argument."""
    return [Outcome(meta=_behave(call)) for call in calls]


def until_there(state: object, calls: list[Call]) -> list[Outcome]:
    """Wait for the file that each payload names."""
    for call in calls:
        while not Path(str(call.payload)).exists():
            time.sleep(0.1)
    return [Outcome() for _ in calls]


def _behave(call: Call) -> object:
    word, *rest = str(call.payload).split(" ", 1)
    if word == "exit":
        os._exit(3)
    if word == "hang":
        time.sleep(600)
    if word == "clip-error":
        raise ClipError("no_video_track", "the file has sound only")
    if word == "busy-storage" and call.attempt < 3:
        raise ClipError("storage_busy", "try again", retryable=True)
    if word == "bug":
        raise KeyError("not there")
    if word == "once-per-file":
        Path(rest[0]).write_text(f"{call.unit_id}\n", encoding="utf-8")
    if word == "sleep":
        time.sleep(float(rest[0]))
    if word == "lock":
        return threading.Lock()
    if word == "threads":
        return os.environ["OMP_NUM_THREADS"]
    return call.attempt


def leave_a_finish(state: object, calls: list[Call]) -> Finish:
    """Mark that the call is on the device; its finish waits for another call's mark: `"MINE OTHER [dies]"`.

    Return the attempt's number and whether the mark was seen. A repeated call does not wait and does not die.
    """
    (call,) = calls
    mine, other, *dies = str(call.payload).split()
    again = Path(mine).exists()
    Path(mine).touch()
    if dies and not again:
        os._exit(3)

    def finish() -> list[Outcome]:
        deadline = time.monotonic() + 30
        while not again and not Path(other).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return [Outcome(meta=(call.attempt, Path(other).exists()))]

    return finish


def small_memory(state: object, calls: list[Call]) -> list[Outcome]:
    """Run out of memory with more than two calls, and always with the payload `"huge"`."""
    if len(calls) > 2 or any(call.payload == "huge" for call in calls):
        raise MemoryError("no room")
    return [Outcome(meta=len(calls)) for call in calls]


def verdict_on_one(state: object, calls: list[Call]) -> list[Outcome]:
    """Answer each call with the payload `"bad"` by its own error, and other calls by a result, in any batch."""
    return [
        Outcome(error=ClipError("bad_one", "only this one")) if call.payload == "bad" else Outcome(meta=len(calls))
        for call in calls
    ]
