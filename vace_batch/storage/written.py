"""The bytes that this process has written into outputs, which a run is billed for.

Like `time.process_time`, the count only grows: a caller takes the difference of two readings round a piece of work.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
_total = 0


def add_written(num_bytes: int) -> None:
    """Count a file that was published, staged or created."""
    global _total
    with _lock:
        _total += num_bytes


def written_bytes() -> int:
    """Return the bytes of all files that this process has written so far."""
    return _total
