"""What is stored by frames, read a chunk of frames at a time as a pass over the video comes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

CHUNK_FRAMES = 64


class ReadAhead(Generic[_T]):
    """`get(start, stop)` gives what belongs to frames start..stop-1, by frame; asked for in rising order."""

    def __init__(self, get: Callable[[int, int], dict[int, _T]]) -> None:
        self._get = get
        self._start = -CHUNK_FRAMES
        self._found: dict[int, _T] = {}

    def at(self, index: int) -> _T | None:
        """What belongs to frame `index`."""
        if not self._start <= index < self._start + CHUNK_FRAMES:
            self._start = index
            self._found = self._get(index, index + CHUNK_FRAMES)
        return self._found.get(index)
