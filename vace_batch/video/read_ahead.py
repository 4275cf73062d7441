"""Read data stored by frame a chunk of frames at a time, while a pass goes over the video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

CHUNK_FRAMES = 64


class ReadAhead(Generic[_T]):
    """Buffers `get(start, stop)`, which returns the data of frames start..stop-1, for calls in rising order."""

    def __init__(self, get: Callable[[int, int], dict[int, _T]]) -> None:
        self._get = get
        self._start = -CHUNK_FRAMES
        self._chunk: dict[int, _T] = {}

    def at(self, index: int) -> _T | None:
        """Return the data of frame `index`."""
        if not self._start <= index < self._start + CHUNK_FRAMES:
            self._start = index
            self._chunk = self._get(index, index + CHUNK_FRAMES)
        return self._chunk.get(index)
