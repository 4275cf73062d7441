"""The numbers of one clip, gathered frame by frame; what it keeps of a frame is some bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.masks.store import Bits
from vace_batch.quality import measures

RING_PX = 24
"""How far from the mask its surroundings are looked at."""

LOOK_EVERY = 4
"""Still pictures are judged on one masked frame of so many, changes on all."""

_MOST_PX = 320 * 320
"""Larger crops are shrunk: a frame's cost has a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One frame round its mask: `box` in the output, the pixels of source and output there (H, W, 3; uint8), the mask.

    `source` is None where the source has no such place or frame.
    """

    index: int
    box: Box
    source: npt.NDArray[np.uint8] | None
    output: npt.NDArray[np.uint8]
    mask: Bits


class Meter:
    """Takes the masked frames of a clip in order, and says its numbers.

    `cuts` are frames that begin a shot; `joins` ranges of frames over which one window gives way to the next.
    """

    def __init__(self, cuts: Iterable[int], joins: Iterable[range]) -> None:
        self._cuts, self._joins = frozenset(cuts), tuple(joins)
        self._sums: dict[str, list[float]] = {}
        self._steps = array("f")
        self._frames = array("q")
        self._blocks = 0.0
        self._before: Sight | None = None
        self._count = 0

    def add(self, sight: Sight) -> None:
        """Look at the next masked frame."""
        if self._count % LOOK_EVERY == 0:
            self._look(_cut(sight, sight.box))
        self._count += 1
        before, self._before = self._before, sight
        if before is not None and before.index + 1 == sight.index and sight.index not in self._cuts:
            found = _changed(before, sight)
            if found is not None:
                self._frames.append(sight.index)
                self._steps.extend((found.inside, found.ring, *found.shift))

    def add_outside(self, change: float) -> None:
        """The largest change of a place in one frame that should have none, in levels."""
        self._blocks = max(self._blocks, change)

    def _look(self, sight: Sight) -> None:
        output, mask = sight.output.astype(np.float32), sight.mask
        if sight.source is not None:
            source = sight.source.astype(np.float32)
            self._sum("residual", *measures.remaining(source, output, mask))
            self._sum("uncovered", *measures.uncovered(source, mask))
        self._sum("foreign", *measures.foreign(output, mask))
        self._sum("gray", *measures.neutral(output, mask))
        self._sum("seam", *measures.seam(output, mask), 1.0)
        five = np.ones((5, 5), np.uint8)
        inner = cv2.erode(mask.view(np.uint8), five).view(np.bool_)
        outer = ~cv2.dilate(mask.view(np.uint8), five).view(np.bool_)
        bands = (*measures.sharpness(output, inner), *measures.sharpness(output, outer))
        if min(bands[1:]) > measures.ROUNDING:
            self._sum("blur", *(max(0.0, band - measures.ROUNDING) for band in bands))

    def _sum(self, name: str, *values: float) -> None:
        sums = self._sums.setdefault(name, [0.0] * len(values))
        self._sums[name] = [one + other for one, other in zip(sums, values, strict=True)]

    def metrics(self) -> dict[str, float]:
        """What could be measured, by the name of its check; the higher the worse."""
        found = {"outside": self._blocks, **self._changes()}
        for name in ("residual", "uncovered", "foreign", "gray"):
            part, whole = self._sums.get(name, (0.0, 0.0))
            if whole > 0:
                found[name] = max(0.0, part / whole)
        border, beside, count = self._sums.get("seam", (0.0, 0.0, 0.0))
        if beside > 0:
            found["seam"] = max(0.0, border - beside) / count
        found |= _blur(*self._sums.get("blur", (0.0,) * 4))
        return {name: round(value, 4) for name, value in found.items()}

    def _changes(self) -> Mapping[str, float]:
        if not self._frames:
            return {}
        steps = np.frombuffer(self._steps, np.float32).reshape(-1, 5).astype(np.float64)
        frames = np.frombuffer(self._frames, np.int64)
        shifts = steps[:, 2:]
        usual = np.median(np.linalg.norm(shifts, axis=1))
        step = float(np.linalg.norm(shifts, axis=1).max() - 3 * usual)
        for join in self._joins:
            within = shifts[(frames >= join.start) & (frames < join.stop)]
            if len(within):
                step = max(step, float(np.linalg.norm(within.sum(axis=0)) - 3 * usual * len(within) ** 0.5))
        flicker = float(np.percentile(np.maximum(steps[:, 0] - steps[:, 1], 0), 75))
        return {"flicker": flicker, "step": max(0.0, step)}


def _cut(sight: Sight, box: Box) -> Sight:
    """What is seen in `box`, shrunk where that is large."""
    inner = box.shift(-sight.box.x, -sight.box.y).slices
    source, output, mask = None if sight.source is None else sight.source[inner], sight.output[inner], sight.mask[inner]
    shrink = max(1, round((box.width * box.height / _MOST_PX) ** 0.5))
    if shrink > 1:
        size = max(1, box.width // shrink), max(1, box.height // shrink)
        output = np.asarray(cv2.resize(output, size, interpolation=cv2.INTER_AREA), np.uint8)
        source = (
            None if source is None else np.asarray(cv2.resize(source, size, interpolation=cv2.INTER_AREA), np.uint8)
        )
        mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return Sight(index=sight.index, box=box, source=source, output=output, mask=np.asarray(mask, np.bool_))


def _small(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _changed(before: Sight, after: Sight) -> measures.Change | None:
    common = before.box.intersect(after.box)
    if common is None:
        return None
    before, after = _cut(before, common), _cut(after, common)
    images = [each.output.astype(np.float32) for each in (before, after)]
    found = measures.change(images[0], images[1], before.mask, after.mask)
    if found is None and before.source is not None and after.source is not None and before.mask.all():
        sources = before.source.astype(np.float32), after.source.astype(np.float32)
        found = measures.change_against(sources, (images[0], images[1]))
    return found


def _blur(fine: float, coarse: float, ring_fine: float, ring_coarse: float) -> dict[str, float]:
    """By how much the fill is softer than its ring: in its spectrum and in all, of which the smaller counts.

    A plain wall beside a hedge has less of everything, a blurred hedge less of what is fine.
    """
    if min(coarse, ring_fine, ring_coarse) <= 0:
        return {}
    return {"blur": max(0.0, 1 - max(fine / coarse * ring_coarse / ring_fine, fine / ring_fine))}
