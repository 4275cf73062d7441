"""Generate windows with VACE, the only step that needs a device; store and commit each window's frames."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.schema import WindowRecord
from vace_batch.storage import files as storage
from vace_batch.vcu.unit import VCU
from vace_batch.video.writer import encode_lossless

if TYPE_CHECKING:  # imports torch and diffusers, which only GPU actors load
    from vace_batch.vace.engine import Engine

_WRITERS = 4
"""Windows written at the same time: the windows of one forward pass end together, and storage answers slowly."""

_UNWRITTEN_BYTES = 1 << 30
"""The most bytes of frames that wait to be written, so that slow storage does not fill the memory."""


def generate(vcus: Sequence[VCU], engine: Engine, out: str) -> Callable[[], list[WindowRecord | ClipError]]:
    """Run VACE on the windows that are not in the ledger, and store each window's frames as soon as they exist.

    Frames are written while the device generates the next batch. Returns when all windows are generated. Call the
    result to wait for storage; it gives each window's record, or the ClipError for which the window cannot be
    generated.
    """
    ledger = Ledger(out)
    results: dict[str, WindowRecord | ClipError | None] = {vcu.window_id: ledger.window(vcu.window_id) for vcu in vcus}
    missing = [vcu for vcu in vcus if results[vcu.window_id] is None]
    written: dict[str, Future[WindowRecord | None]] = {}
    waiting: deque[tuple[Future[WindowRecord | None], int]] = deque()
    with contextlib.ExitStack() as stack:
        writers = stack.enter_context(ThreadPoolExecutor(_WRITERS))
        for made in engine.stream(missing):
            vcu = missing[made.index]
            if made.frames is None:
                results[vcu.window_id] = made.error
                continue
            written[vcu.window_id] = writers.submit(_store, ledger, vcu, made.frames, made.seconds)
            waiting.append((written[vcu.window_id], made.frames.nbytes))
            while sum(size for _, size in waiting) > _UNWRITTEN_BYTES:
                waiting.popleft()[0].result()
        unfinished = stack.pop_all()

    def committed() -> list[WindowRecord | ClipError]:
        with unfinished:
            results.update({window_id: future.result() for window_id, future in written.items()})
        return [result for vcu in vcus if (result := results[vcu.window_id]) is not None]

    return committed


def _store(ledger: Ledger, vcu: VCU, frames: NDArray[np.uint8], device_s: float) -> WindowRecord | None:
    started = time.monotonic()
    uri = ledger.artifact_uri(vcu.window_id, ".mkv")
    data = encode_lossless(frames)
    storage.publish(uri, data)
    record: WindowRecord = {
        "artifact": ledger.relative(uri),
        "digest": storage.digest(data),
        "seed": vcu.seed,
        "seconds": round(device_s + time.monotonic() - started, 3),
        "device_s": round(device_s, 3),
    }
    if not ledger.commit(vcu.window_id, record):
        storage.delete(uri)
    return ledger.window(vcu.window_id)
