"""Looking at every k-th frame: as long as what is found moves evenly, the frames between two looks are worked out.

k grows while everything goes on as expected and falls to one at any surprise; then the frames that were passed over are
looked at after all, so that nothing appears late.
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

# How far the middle of a span may lie from the straight line, by how much the speed changed over it.
_MOST_OFF_PX, _MOST_OFF_SHARE = 1.0, 0.005

_Picture = TypeVar("_Picture")
Look = tuple[int, list[Detection]]
Edges = npt.NDArray[np.float64]


def detect_with_skipping(
    pictures: Iterable[tuple[int, _Picture]],
    look: Callable[[int, _Picture], list[Detection]],
    size: Size,
    most: int,
) -> Iterator[Look]:
    """What is found in each of `pictures`, by rising frame number, of which at least every `most`-th is looked at."""
    looks: list[Look] = []
    step = 1
    waiting: list[tuple[int, _Picture]] = []
    for index, picture in pictures:
        waiting.append((index, picture))
        if len(waiting) < step:
            continue
        *passed, (index, picture) = waiting
        now = index, look(index, picture)
        pairs = _even_pairs(looks, now)
        if pairs is None:
            step = 1
            for passed_index, passed_picture in passed:
                looks = [*looks[-1:], (passed_index, look(passed_index, passed_picture))]
                yield looks[-1]
        else:
            yield from ((number, _between(pairs, looks[-1][0], index, number, size)) for number, _ in passed)
            step = min(2 * step, most)
        yield now
        looks, waiting = [*looks[-1:], now], []
    for index, picture in waiting:
        yield index, look(index, picture)


def _even_pairs(looks: Sequence[Look], now: Look) -> list[tuple[Detection, Detection]] | None:
    """The detections of the last look and this one in pairs; None where one came, went, or left the straight line."""
    if len(looks) < 2 or len({len(found) for _, found in (*looks, now)}) > 1:
        return None
    earlier, last = looks
    before, pairs = _pairs(earlier[1], last[1]), _pairs(last[1], now[1])
    if before is None or pairs is None:
        return None
    came = {id(after): edges for edges, after in ((_edges(one.box), after) for one, after in before)}
    first, second = last[0] - earlier[0], now[0] - last[0]
    for one, after in pairs:
        speed_before = (_edges(one.box) - came[id(one)]) / first
        speed = (_edges(after.box) - _edges(one.box)) / second
        off = np.abs(speed - speed_before).max() / ((first + second) / 2) * second**2 / 8
        if off > max(_MOST_OFF_PX, _MOST_OFF_SHARE * max(one.box.width, one.box.height)):
            return None
    return pairs


def _pairs(before: Sequence[Detection], after: Sequence[Detection]) -> list[tuple[Detection, Detection]] | None:
    """Nearest first, of one class each; None where that does not work out for all."""
    if not before:
        return []
    ends = [np.array([_edges(one.box) for one in side]) for side in (before, after)]
    cost = np.abs(ends[0][:, None] - ends[1][None]).sum(axis=2)
    rows, columns = linear_sum_assignment(cost)
    pairs = [(before[row], after[column]) for row, column in zip(rows, columns, strict=True)]
    return None if any(one.label != other.label for one, other in pairs) else pairs


def _between(
    pairs: Sequence[tuple[Detection, Detection]], first: int, last: int, index: int, size: Size
) -> list[Detection]:
    share = (index - first) / (last - first)
    found = []
    for one, other in pairs:
        before, after = (detection.mask or box_mask(index, detection.box) for detection in (one, other))
        mask = interpolate_mask(before, after, index, share, size)
        if mask is not None:
            has_mask = one.mask is not None and other.mask is not None
            confidence = min(one.confidence, other.confidence)
            found.append(
                Detection(box=mask.box, label=one.label, confidence=confidence, mask=mask if has_mask else None)
            )
    return found


def _edges(box: Box) -> Edges:
    return np.array([box.x, box.y, box.right, box.bottom], np.float64)
