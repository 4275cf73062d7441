"""Test that generated windows reach the ledger while the engine continues, and despite windows that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.batch import workers
from vace_batch.cluster.units import Call
from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.steps import generate as generation
from vace_batch.steps.generate import generate
from vace_batch.storage.files import read_bytes
from vace_batch.vace.engine import Made
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU
from vace_batch.video.reader import frames_from_bytes
from vace_batch.video.writer import encode_lossless

SAMPLING = ResolvedSampling(num_inference_steps=1, guidance_scale=1.0, flow_shift=3.0)


def window(number: int) -> VCU:
    mask = np.ones((1, 16, 16), np.bool_)
    frames = np.full((1, 16, 16, 3), 10 * number, np.uint8)
    key = make_key("window", number)
    return VCU(window_id=key, frames_THWC=frames, mask_THW=mask, neutral_THW=mask, sampling=SAMPLING)


class Copying:
    """An engine that returns its input frames; windows at the positions `bad` fail. Reports when it continues."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad, self.asked, self.goes_on = bad, 0, threading.Event()

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        for index, vcu in enumerate(vcus):
            if index:
                self.goes_on.set()
            self.asked += 1
            if index in self.bad:
                yield Made(index=index, error=ClipError("not_finite", f"{index} is poison"))
            else:
                yield Made(index=index, frames=vcu.frames_THWC, seconds=1.5)


def test_frames_are_written_while_the_engine_makes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, windows, ledger = Copying(), [window(number) for number in range(3)], Ledger(str(tmp_path))

    def encode(frames: NDArray[np.uint8]) -> bytes:
        assert engine.goes_on.wait(10), "the engine waits for the writer"
        return encode_lossless(frames)

    monkeypatch.setattr(generation, "encode_lossless", encode)
    records = generate(windows, engine, str(tmp_path))()
    for vcu, record in zip(windows, records, strict=True):
        assert not isinstance(record, ClipError)
        assert record["device_s"] == 1.5 and 1.5 <= record["seconds"] < 20
        [frames] = frames_from_bytes(read_bytes(ledger.absolute(record["artifact"])))
        np.testing.assert_array_equal(frames, vcu.frames_THWC[0])
    again = generate(windows, engine, str(tmp_path))()
    assert again == records and engine.asked == 3, "nothing is made twice"


def test_a_window_that_cannot_be_made_is_its_own_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = workers.Engines.__new__(workers.Engines)
    engine = Copying(bad=[0])
    monkeypatch.setattr(engines, "get", lambda model, revision: engine, raising=False)
    calls = [Call(unit_id=str(i), payload=("tiny", "r", str(tmp_path)), inputs=(window(i),)) for i in range(2)]
    poisoned, good = workers.generate(engines, calls)()
    assert poisoned.error is not None and poisoned.error.code == "not_finite"
    assert good.error is None and good.meta == 1.5


def test_the_device_is_left_before_the_last_frames_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window counts as generated only when its record exists."""
    vcu, ledger, may_write = window(0), Ledger(str(tmp_path)), threading.Event()

    def encode(frames: NDArray[np.uint8]) -> bytes:
        assert may_write.wait(10), "the device is held while frames are written"
        return encode_lossless(frames)

    monkeypatch.setattr(generation, "encode_lossless", encode)
    committed = generate([vcu], Copying(), str(tmp_path))
    assert ledger.done(vcu.window_id) is None
    may_write.set()
    assert committed() == [ledger.done(vcu.window_id)]
