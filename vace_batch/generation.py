"""The one step that needs a device: windows through VACE, each one's frames stored and committed when they exist."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vace_batch import storage
from vace_batch.errors import ClipError
from vace_batch.results import Ledger, Record
from vace_batch.vcu import VCU
from vace_batch.video.write import encode_lossless

if TYPE_CHECKING:  # torch and diffusers, which only the GPU actors load
    from vace_batch.vace.engine import Engine

_UNWRITTEN = 2
"""Windows whose frames may wait for the writer, so that a slow storage does not fill the memory."""


def generate(vcus: Sequence[VCU], engine: Engine, out: str) -> list[Record | ClipError]:
    """Run VACE on windows and store each one's frames the moment they exist; those that are there are not run again.

    A window's frames are written while the device makes the next batch's. A window that cannot be made gives its error.
    """
    ledger = Ledger(out)
    results: dict[str, Record | ClipError | None] = {vcu.window_id: ledger.done(vcu.window_id) for vcu in vcus}
    missing = [vcu for vcu in vcus if results[vcu.window_id] is None]
    written: list[tuple[str, Future[Record | None]]] = []
    with ThreadPoolExecutor(1) as writer:
        for made in engine.stream(missing):
            vcu = missing[made.index]
            if made.frames is None:
                results[vcu.window_id] = made.error
                continue
            written.append((vcu.window_id, writer.submit(_store, ledger, vcu, made.frames, made.seconds)))
            if len(written) > _UNWRITTEN:
                written[-1 - _UNWRITTEN][1].result()
        results.update({window_id: future.result() for window_id, future in written})
    return [result for vcu in vcus if (result := results[vcu.window_id]) is not None]


def _store(ledger: Ledger, vcu: VCU, frames: NDArray[np.uint8], device_s: float) -> Record | None:
    started = time.monotonic()
    uri, data = ledger.artifact_uri(vcu.window_id, ".mkv"), encode_lossless(frames)
    storage.publish(uri, data)
    seconds = {"seconds": round(device_s + time.monotonic() - started, 3), "device_s": round(device_s, 3)}
    body = {"artifact": ledger.relative(uri), "digest": storage.digest(data), "seed": vcu.seed}
    if not ledger.commit(vcu.window_id, body | seconds):
        storage.delete(uri)
    return ledger.done(vcu.window_id)
