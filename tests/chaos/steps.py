"""Stand-ins for the steps of a clip: a window costs milliseconds, all else is real: actors, payloads, ledger, files.

Each run of a window writes a line to `<RUNS>/<process id>` when it starts and another when its record is written, so
that the cost of a death can be counted afterwards.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.chaos import faulty_storage
from vace_batch.cluster.units import Call, Outcome
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.storage import files as storage

SIDE = 128
LARGE = 50
"""How many times the pixels of a large window's payload are those of another: about 10 MB."""

RUNS = "CHAOS_RUNS"

_real_time = time.time


def set_up(*, clock_jumps: bool = False) -> str:
    """Make the state of an actor; with `clock_jumps` its wall clock jumps days forth and back at every reading."""
    assert faulty_storage.SCHEME
    if clock_jumps:
        time.time = lambda: _real_time() + random.choice([-86_400.0, 0.0, 86_400.0])
    return "warm"


def window_key(number: int) -> str:
    return make_key("window", "chaos", number)


def clip_key(number: int) -> str:
    return make_key("clip", "chaos", number)


def _pixels(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)


def note(what: str, number: int) -> None:
    """Write a line for this process; the lines of a killed process stay."""
    path = Path(os.environ[RUNS]) / str(os.getpid())
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{what} {number} {time.monotonic():.3f}\n")


def build(state: object, calls: list[Call]) -> list[Outcome]:
    """Make a window's pixels. Payload: (OUT, window, seconds, word)."""
    return [Outcome(payload=_built(*_asked(call))) for call in calls]


def _built(out: str, number: int, seconds: float, word: str) -> NDArray[np.uint8]:
    time.sleep(seconds / 4)
    return np.tile(_pixels(number), (LARGE, 1, 1, 1)) if word == "large" else _pixels(number)


def generate(state: object, calls: list[Call]) -> list[Outcome]:
    """Commit the windows that the ledger lacks. Payload: (OUT, window, seconds, word)."""
    asked = [_asked(call) for call in calls]
    missing = [call for call, (out, number, *_) in zip(calls, asked, strict=True) if _is_missing(out, number)]
    for call in missing:
        note("start", _asked(call)[1])
    _misbehave([(_asked(call)[3], call.attempt) for call in missing])
    for call in missing:
        out, number, seconds, _ = _asked(call)
        time.sleep(seconds)
        pixels = call.inputs[0]
        assert isinstance(pixels, np.ndarray)
        pixels = pixels[:4]
        won = _commit(out, number, (255 - pixels).tobytes())
        note("won" if won else "lost", number)
    return [Outcome(meta="done") for _ in calls]


def _is_missing(out: str, number: int) -> bool:
    return Ledger(out).done(window_key(number)) is None


def _misbehave(words: list[tuple[str, int]]) -> None:
    for word, attempt in words:
        if word == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang" or (word == "hang once" and attempt == 1):
            time.sleep(600)
        if word == "host memory":
            hoard = [np.ones(64 << 20, np.uint8) for _ in range(160)]
            time.sleep(len(hoard))
        if word == "device memory" and len(words) > 1:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory: simulated for more than one window")


def _commit(out: str, number: int, data: bytes) -> bool:
    ledger, key = Ledger(out), window_key(number)
    uri = ledger.artifact_uri(key, ".raw")
    storage.publish(uri, data)
    won = ledger.commit(key, {"artifact": ledger.relative(uri), "digest": storage.digest(data)})
    if not won:
        storage.delete(uri)
    return won


def stitch(state: object, calls: list[Call]) -> list[Outcome]:
    """Write the clip's windows one after the other and commit the clip. Payload: (OUT, clip, windows)."""
    for call in calls:
        payload = call.payload
        assert isinstance(payload, tuple)
        out, number, windows = payload
        _stitch(out, number, windows)
    return [Outcome(meta="done") for _ in calls]


def _stitch(out: str, number: int, windows: range) -> None:
    ledger, key = Ledger(out), clip_key(number)
    if ledger.done(key) is not None:
        return
    draft = ledger.artifact_uri(key, ".raw")
    with storage.staging(storage.join(out, output(number)), draft) as target, open(target, "wb") as file:
        for window in windows:
            record = ledger.done(window_key(window))
            assert record is not None
            file.write(storage.read_verified(ledger.absolute(record["artifact"]), record["digest"]))
    ledger.commit(key, {"status": "done", "windows": len(windows), "runs": 1, "seconds": 0.0})


def output(number: int) -> str:
    return f"videos/clip{number:03d}.raw"


def _asked(call: Call) -> tuple[str, int, float, str]:
    asked = call.payload
    assert isinstance(asked, tuple)
    return asked
