"""Gather the metrics of one clip frame by frame, keeping a few bytes a frame."""

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
from vace_batch.quality.residue import ResidueMeter

RING_PX = 24
"""Width of the ring of surroundings round a mask that is measured with it."""

STILL_EVERY = 4
"""Single frames are measured on every 4th masked frame, changes between frames on all."""

_MOST_PX = 320 * 320
"""Pixels of a crop; larger crops are shrunk, which bounds the cost of a frame."""

_MOST_RESIDUE_PX = 200 * 200
"""Pixels of a crop in which the rest of an object is measured, on every frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPair:
    """Source and output of one frame (H, W, 3; uint8), cropped to `box` round the mask, which is in output coordinates.

    `source` is None where the source has no such place or frame.
    """

    index: int
    box: Box
    source: npt.NDArray[np.uint8] | None
    output: npt.NDArray[np.uint8]
    mask: Bits


class Meter:
    """Measures the masked frames of a clip, which are added in order.

    `cuts` are the frames that begin a shot, `joins` the ranges of frames in which one window cross-fades into the next.
    """

    def __init__(self, cuts: Iterable[int], joins: Iterable[range]) -> None:
        self._cuts, self._joins = frozenset(cuts), tuple(joins)
        self._sums: dict[str, list[float]] = {}
        self._steps = array("f")
        self._frames = array("q")
        self._blocks = 0.0
        self._before: CropPair | None = None
        self._count = 0
        self._residues = ResidueMeter()

    def add(self, crops: CropPair) -> None:
        """Measure the next masked frame."""
        if self._count % STILL_EVERY == 0:
            self._measure_still(_cut(crops, crops.box))
        self._measure_residue(_cut(crops, crops.box, _MOST_RESIDUE_PX))
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
        self._sum("seam", *measures.seam(output, mask), 1.0)
        five = np.ones((5, 5), np.uint8)
        inner = cv2.erode(mask.view(np.uint8), five).view(np.bool_)
        outer = ~cv2.dilate(mask.view(np.uint8), five).view(np.bool_)
        bands = (*measures.sharpness(output, inner), *measures.sharpness(output, outer))
        if min(bands[1:]) > measures.ROUNDING:
            self._sum("blur", *(max(0.0, band - measures.ROUNDING) for band in bands))

    def _measure_residue(self, crops: CropPair) -> None:
        if crops.source is not None:
            source, output = crops.source.astype(np.float32), crops.output.astype(np.float32)
            self._residues.add(crops.index, crops.box, source, output, crops.mask)

    def _sum(self, name: str, *values: float) -> None:
        sums = self._sums.setdefault(name, [0.0] * len(values))
        self._sums[name] = [one + other for one, other in zip(sums, values, strict=True)]

    def metrics(self) -> dict[str, float]:
        """Finish: the metrics that could be measured, by check; higher is worse."""
        metrics = {"outside": self._blocks, **self._changes(), **self._residues.metrics()}
        for name in ("uncovered", "foreign", "gray"):
            part, whole = self._sums.get(name, (0.0, 0.0))
            if whole > 0:
                metrics[name] = max(0.0, part / whole)
        border, beside, count = self._sums.get("seam", (0.0, 0.0, 0.0))
        if beside > 0:
            metrics["seam"] = max(0.0, border - beside) / count
        metrics |= _blur(*self._sums.get("blur", (0.0,) * 4))
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


def _cut(crops: CropPair, box: Box, most_px: int = _MOST_PX) -> CropPair:
    """Crop to `box`, and shrink a crop of more than about `most_px` pixels."""
    inner = box.shift(-crops.box.x, -crops.box.y).slices
    source = None if crops.source is None else crops.source[inner]
    output = crops.output[inner]
    mask = crops.mask[inner]
    shrink = max(1, round((box.width * box.height / most_px) ** 0.5))
    if shrink > 1:
        size = max(1, box.width // shrink), max(1, box.height // shrink)
        source = None if source is None else _small(source, size)
        output = _small(output, size)
        mask = np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5, np.bool_)
    return CropPair(index=crops.index, box=box, source=source, output=output, mask=mask)


def _small(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _changed(before: CropPair, after: CropPair) -> measures.Change | None:
    """Measure the change from one frame to the next where both have crops; None where nothing can be measured."""
    common = before.box.intersect(after.box)
    if common is None:
        return None
    before = _cut(before, common)
    after = _cut(after, common)
    outputs = before.output.astype(np.float32), after.output.astype(np.float32)
    change = measures.change(*outputs, before.mask, after.mask)
    if change is None and before.source is not None and after.source is not None and before.mask.all():
        sources = before.source.astype(np.float32), after.source.astype(np.float32)
        change = measures.change_against(sources, outputs)
    return change


def _blur(fine: float, coarse: float, ring_fine: float, ring_coarse: float) -> dict[str, float]:
    """Measure how much softer the fill is than its ring: by the fine share of contrast and by fine contrast itself.

    The smaller loss counts: a plain wall beside a hedge has less contrast of every size, a blurred hedge less fine one.
    """
    if min(coarse, ring_fine, ring_coarse) <= 0:
        return {}
    return {"blur": max(0.0, 1 - max(fine / coarse * ring_coarse / ring_fine, fine / ring_fine))}
