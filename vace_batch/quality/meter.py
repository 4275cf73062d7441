"""Gather the metrics of one clip frame by frame, keeping a few bytes a frame."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from vace_batch.quality import measures
from vace_batch.quality.crops import CropPair, cut
from vace_batch.quality.fill_meter import FillMeter
from vace_batch.quality.residue import ResidueMeter

RING_PX = 24
"""Width of the ring of surroundings round a mask that is measured with it."""

STILL_EVERY = 4
"""Single frames are measured on every 4th masked frame, changes between frames on all."""

_MOST_PX = 320 * 320
"""Pixels of a crop; larger crops are shrunk, which bounds the cost of a frame."""

_MOST_RESIDUE_PX = 200 * 200
"""Pixels of a crop in which the rest of an object is measured, on every frame."""


class Meter:
    """Measures the masked frames of a clip, which are added in order.

    `cuts` are the frames that begin a shot, `joins` the ranges of frames in which one window cross-fades into the next.
    With `revealed`, fills are to be the background that other frames show.
    """

    def __init__(self, cuts: Iterable[int], joins: Iterable[range], *, revealed: bool = True) -> None:
        self._cuts, self._joins = frozenset(cuts), tuple(joins)
        self._sums: dict[str, list[float]] = {}
        self._steps = array("f")
        self._frames = array("q")
        self._blocks = 0.0
        self._before: CropPair | None = None
        self._count = 0
        self._residues = ResidueMeter()
        self._fills = FillMeter(by_frames=revealed)

    @property
    def wants_view(self) -> bool:
        """Whether the next masked frame is measured by itself, for which `add` takes a wider crop."""
        return self._count % STILL_EVERY == 0

    def add(self, crops: CropPair, view: CropPair | None = None) -> None:
        """Measure the next masked frame; `view` is a wider crop of the frame."""
        if self._before is not None and any(self._before.index < at <= crops.index for at in self._cuts):
            self._fills.begin_shot()
        if self.wants_view:
            self._measure_still(cut(crops, crops.box, _MOST_PX))
            self._fills.add(view or crops)
        self._measure_residue(cut(crops, crops.box, _MOST_RESIDUE_PX))
        self._count += 1
        before = self._before
        self._before = crops
        if before is not None and before.index + 1 == crops.index and crops.index not in self._cuts:
            change = _changed(before, crops)
            if change is not None:
                self._frames.append(crops.index)
                self._steps.extend((change.inside, change.ring, *change.shift))

    def add_outside(self, change: float) -> None:
        """Take a frame's largest change outside the masks, in levels."""
        self._blocks = max(self._blocks, change)

    def _measure_still(self, crops: CropPair) -> None:
        """Add the checks that one frame alone allows."""
        output = crops.output.astype(np.float32)
        mask = crops.mask
        if crops.source is not None:
            source = crops.source.astype(np.float32)
            self._sum("uncovered", *measures.uncovered(source, mask))
        self._sum("foreign", *measures.foreign(output, mask))
        self._sum("gray", *measures.neutral(output, mask))

    def _measure_residue(self, crops: CropPair) -> None:
        if crops.source is not None:
            source, output = crops.source.astype(np.float32), crops.output.astype(np.float32)
            self._residues.add(crops.index, crops.box, source, output, crops.mask)

    def _sum(self, name: str, *values: float) -> None:
        sums = self._sums.setdefault(name, [0.0] * len(values))
        self._sums[name] = [one + other for one, other in zip(sums, values, strict=True)]

    def metrics(self) -> dict[str, float]:
        """Finish: the metrics that could be measured, by check; higher is worse."""
        metrics = {"outside": self._blocks, **self._changes(), **self._residues.metrics(), **self._fills.metrics()}
        for name in ("uncovered", "foreign", "gray"):
            part, whole = self._sums.get(name, (0.0, 0.0))
            if whole > 0:
                metrics[name] = max(0.0, part / whole)
        return {name: round(value, 4) for name, value in metrics.items()}

    def _changes(self) -> Mapping[str, float]:
        """Reduce the changes between frames: the upper quartile as flicker, the largest shift of colour as step."""
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


def _changed(before: CropPair, after: CropPair) -> measures.Change | None:
    """Measure the change from one frame to the next where both have crops; None where nothing can be measured."""
    common = before.box.intersect(after.box)
    if common is None:
        return None
    before, after = cut(before, common, _MOST_PX), cut(after, common, _MOST_PX)
    outputs = before.output.astype(np.float32), after.output.astype(np.float32)
    change = measures.change(*outputs, before.mask, after.mask)
    if change is None and before.source is not None and after.source is not None and before.mask.all():
        sources = before.source.astype(np.float32), after.source.astype(np.float32)
        change = measures.change_against(sources, outputs)
    return change
