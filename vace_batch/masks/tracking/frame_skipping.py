"""Run the detector on every k-th frame, and interpolate between two such frames while objects move evenly.

k doubles while detections go on as expected, and falls to one at any surprise; the skipped frames are then detected
too, so that no object appears late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.store import box_mask
from vace_batch.masks.tracking.smoothing import interpolate_mask

# The most that the middle of a span may lie off the straight line, judged by the change of speed over the span.
_MOST_OFF_PX, _MOST_OFF_SHARE = 1.0, 0.005

_Image = TypeVar("_Image")
FrameDetections = tuple[int, list[Detection]]
Edges = npt.NDArray[np.float64]


def detect_with_skipping(
    images: Iterable[tuple[int, _Image]],
    detect: Callable[[int, _Image], list[Detection]],
    size: Size,
    most: int,
) -> Iterator[FrameDetections]:
    """Yield the detections of each of `images`, by rising frame; `detect` runs on at least every `most`-th frame."""
    detected: list[FrameDetections] = []
    step = 1
    waiting: list[tuple[int, _Image]] = []
    for index, image in images:
        waiting.append((index, image))
        if len(waiting) < step:
            continue
        skipped = waiting[:-1]
        now = index, detect(index, image)
        pairs = _even_pairs(detected, now)
        if pairs is None:
            step = 1
            for skipped_index, skipped_image in skipped:
                detected = [*detected[-1:], (skipped_index, detect(skipped_index, skipped_image))]
                yield detected[-1]
        else:
            first = detected[-1][0]
            for skipped_index, _ in skipped:
                yield skipped_index, _interpolated(pairs, (first, index), skipped_index, size)
            step = min(2 * step, most)
        yield now
        detected = [*detected[-1:], now]
        waiting = []
    for index, image in waiting:
        yield index, detect(index, image)


def _even_pairs(detected: Sequence[FrameDetections], now: FrameDetections) -> list[tuple[Detection, Detection]] | None:
    """Pair the detections of the last and this frame; None if an object came, went, or left its straight line."""
    if len(detected) < 2 or len({len(detections) for _, detections in (*detected, now)}) > 1:
        return None
    earlier, last = detected
    before = _pairs(earlier[1], last[1])
    pairs = _pairs(last[1], now[1])
    if before is None or pairs is None:
        return None
    edges_before = {id(after): _edges(one.box) for one, after in before}
    first = last[0] - earlier[0]
    second = now[0] - last[0]
    for one, after in pairs:
        speed_before = (_edges(one.box) - edges_before[id(one)]) / first
        speed = (_edges(after.box) - _edges(one.box)) / second
        off = np.abs(speed - speed_before).max() / ((first + second) / 2) * second**2 / 8
        if off > max(_MOST_OFF_PX, _MOST_OFF_SHARE * max(one.box.width, one.box.height)):
            return None
    return pairs


def _pairs(before: Sequence[Detection], after: Sequence[Detection]) -> list[tuple[Detection, Detection]] | None:
    """Pair detections of one class by distance, nearest first; None if any remains without a partner."""
    if not before:
        return []
    ends = [np.array([_edges(one.box) for one in side]) for side in (before, after)]
    cost = np.abs(ends[0][:, None] - ends[1][None]).sum(axis=2)
    rows, columns = linear_sum_assignment(cost)
    pairs = [(before[row], after[column]) for row, column in zip(rows, columns, strict=True)]
    return None if any(one.label != other.label for one, other in pairs) else pairs


def _interpolated(
    pairs: Sequence[tuple[Detection, Detection]], ends: tuple[int, int], index: int, size: Size
) -> list[Detection]:
    """Interpolate paired detections of the frames `ends` on frame `index`."""
    first, last = ends
    share = (index - first) / (last - first)
    detections = []
    for one, other in pairs:
        before = one.mask or box_mask(index, one.box)
        after = other.mask or box_mask(index, other.box)
        mask = interpolate_mask(before, after, index, share, size)
        if mask is not None:
            has_mask = one.mask is not None and other.mask is not None
            confidence = min(one.confidence, other.confidence)
            detections.append(
                Detection(box=mask.box, label=one.label, confidence=confidence, mask=mask if has_mask else None)
            )
    return detections


def _edges(box: Box) -> Edges:
    return np.array([box.x, box.y, box.right, box.bottom], np.float64)
