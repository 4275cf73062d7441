"""Log the thing that this process waits for, again and again until the wait ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from vace_batch import log

SAY_WAITING_EVERY_S = 30.0

_LOG = log.get_logger(__name__)


@contextlib.contextmanager
def waiting_for(thing: str, *, every_s: float = SAY_WAITING_EVERY_S) -> Iterator[None]:
    """Log every `every_s` seconds that this process waits for `thing`, until the context ends."""
    over = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not over.wait(every_s):
            _LOG.warning("waiting for %s, for %.0f s now", thing, time.monotonic() - begin)

    threading.Thread(target=tell, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        over.set()
