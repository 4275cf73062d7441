"""Turn and mirror stored pictures for display.

Shape legend: H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """The way from stored to display: `turns` quarter turns counter-clockwise, then mirrored left to right."""

    turns: int = 0
    mirrored: bool = False

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...] | None) -> Orientation:
        """Read libav's 3x3 display matrix (row major, 16.16); angles that are no quarter turn count as upright."""
        if matrix is None:
            return cls()
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        mirrored = a * d - b * c < 0
        if mirrored:
            a, c = -a, -c
        if (a == 0) == (b == 0):
            return cls()
        turns = (0 if a > 0 else 2) if b == 0 else (3 if b > 0 else 1)
        return cls(turns=turns, mirrored=mirrored)

    def display(self, array: NDArray[_T]) -> NDArray[_T]:
        """Turn a stored (H, W, ...) array as displayed; a view."""
        turned = np.rot90(array, self.turns)
        return turned[:, ::-1] if self.mirrored else turned

    def stored(self, array: NDArray[_T]) -> NDArray[_T]:
        """Turn a displayed (H, W, ...) array as stored; a view, the inverse of `display`."""
        return np.rot90(array[:, ::-1] if self.mirrored else array, -self.turns)

    def display_size(self, stored: Size) -> Size:
        return Size(stored.height, stored.width) if self.turns % 2 else stored

    def stored_box(self, box: Box, display: Size) -> Box:
        """Return the stored rectangle that `box` of a frame of `display` size shows."""
        if self.mirrored:
            box = Box(display.width - box.right, box.y, box.width, box.height)
        size = display
        for _ in range(self.turns):
            box = Box(size.height - box.bottom, box.x, box.height, box.width)
            size = Size(size.height, size.width)
        return box
