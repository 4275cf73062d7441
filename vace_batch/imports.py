"""Import many modules at once, at the start of a process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Pause the collector of reference cycles, which walks all objects again and again while imports add more.

    The import of VACE's engine takes 25% less CPU time: 3.8 s instead of 5.1 s on one core of a busy AMD EPYC,
    2026-12-01; that of the CPU actors' code 16% less.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
