"""Look for the removed object in the frames without a mask beside and between masked ones.

A tracker that loses an object for some frames, or finds it late, leaves frames in which the object flashes up. The
object's pixels of the nearest masked frame are searched near the place where they are expected. How well they match is
compared with two matches in the clip itself: with the next masked frame of the source, which shows the object, and with
the masked frame of the output, which does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.quality.compare import Comparison, FramePair
from vace_batch.quality.measures import LEAST_PX

BESIDE_FRAMES = 3
"""Frames without a mask that are looked at on either side of a masked range."""

MOST_PLACES = 48
"""Beginnings and ends of masked ranges that are looked at, evenly spread over the clip."""

_VISIBLE_LEVELS = 12.0
_TEMPLATE_PX = 96
_SEARCH_SHARE = 0.35
_SEARCH_PX = (8, 48)
_LEAST_CONTRAST = 0.25
_MATCH = 0.6
"""A match this far from the output's masked frame to the source's masked frame shows the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """Where masks begin or end: the last masked frame `masked`, the masked frame `inner` next to it, and the frames
    `bare` without a mask, nearest first."""

    masked: int
    inner: int
    bare: tuple[int, ...]


def count_missed(comparison: Comparison, masked: Sequence[int], asked: range, cuts: Sequence[int]) -> dict[str, float]:
    """Count the frames of `asked` in which the object shows beside or between frames with a mask, as `missed`.

    `masked` rises; `cuts` are the frames that begin a shot, beyond which no object is expected to stay.

    Raises:
        ClipError: a file cannot be read, or has fewer frames.
    """
    edges = list(_edges(masked, asked, frozenset(cuts)))
    if not edges:
        return {}
    picked = np.unique(np.linspace(0, len(edges) - 1, MOST_PLACES).astype(int))
    return {"missed": float(len(set().union(*(_shown(comparison, edges[at]) for at in picked))))}


def _edges(masked: Sequence[int], asked: range, cuts: frozenset[int]) -> Iterator[_Edge]:
    """List the ends of the masked ranges that have frames without a mask of the same shot and range beside them."""
    known = frozenset(masked)
    for index in masked:
        for step in (1, -1):
            bare = _bare(index, step, known, asked, cuts)
            inner = index - step
            # Where a shot begins between the two masked frames, they do not show the same thing.
            if bare and inner in known and max(index, inner) not in cuts:
                yield _Edge(masked=index, inner=inner, bare=bare)


def _bare(index: int, step: int, masked: frozenset[int], asked: range, cuts: frozenset[int]) -> tuple[int, ...]:
    """List the frames without a mask next to frame `index` in one direction, up to the end of shot, range or gap."""
    bare: list[int] = []
    for number in range(1, BESIDE_FRAMES + 1):
        at = index + step * number
        begins_shot = (at if step > 0 else at + 1) in cuts
        if at in masked or at not in asked or begins_shot:
            break
        bare.append(at)
    return tuple(bare)


def _shown(comparison: Comparison, edge: _Edge) -> set[int]:
    """Return the frames without a mask at one edge that show the object; at least two, unless there is only one."""
    frames = (edge.masked, edge.inner, *edge.bare)
    pairs = {pair.index: pair for pair in comparison.pairs(range(min(frames), max(frames) + 1))}
    masks = comparison.masks(min(edge.masked, edge.inner), max(edge.masked, edge.inner) + 1)
    if edge.masked not in masks or edge.inner not in masks:
        return set()
    template = _template(pairs[edge.masked], masks[edge.masked])
    if template is None:
        return set()
    step = _centre(masks[edge.masked].box) - _centre(masks[edge.inner].box)
    least = _least_match(template, pairs[edge.masked], pairs[edge.inner], step)
    moved = enumerate(edge.bare, 1)
    matches = ((index, template.match(pairs[index].output_rgb(), number * step)) for number, index in moved)
    shown = {index for index, match in takewhile(lambda pair: (pair[1] or 0.0) >= least, matches)}
    return shown if len(shown) >= min(2, len(edge.bare)) else set()


def _least_match(template: _Template, masked: FramePair, inner: FramePair, step: npt.NDArray[np.float64]) -> float:
    """Return the match from which on a frame shows the object; infinite where object and fill look alike."""
    own = template.match(inner.source_rgb(), -step)
    fill = template.match(masked.output_rgb(), np.zeros(2))
    if own is None or fill is None or own - fill < _LEAST_CONTRAST:
        return float("inf")
    return fill + _MATCH * (own - fill)


def _centre(box: Box) -> npt.NDArray[np.float64]:
    return np.array([box.x + box.width / 2, box.y + box.height / 2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Template:
    """An object's pixels `bits` of `rgb` (h, w), seen in `box` of a frame; scaled by `scale`. `energy` is the mean
    squared difference of the object from the fill that took its place."""

    box: Box
    scale: float
    rgb: npt.NDArray[Any]
    bits: Bits
    energy: float

    def match(self, frame: npt.NDArray[np.uint8] | None, step: npt.NDArray[np.float64]) -> float | None:
        """Search the object near its box moved by `step`; 1 for a perfect match, 0 for one as good as the fill's.

        None where the frame does not exist or the place is not inside the frame.
        """
        if frame is None:
            return None
        size = Size(frame.shape[1], frame.shape[0])
        reach = int(np.clip(_SEARCH_SHARE * max(self.box.width, self.box.height), *_SEARCH_PX))
        expected = self.box.shift(*(round(float(each)) for each in step))
        place = expected.clip(size)
        if place != expected:
            return None
        window = expected.pad(reach).clip(size)
        assert window is not None
        shown = _scaled(frame[window.slices], self.scale)
        if shown.shape[0] < self.rgb.shape[0] or shown.shape[1] < self.rgb.shape[1]:
            return None
        weights = np.dstack([self.bits.astype(np.float32)] * 3)
        differences = cv2.matchTemplate(shown, self.rgb, cv2.TM_SQDIFF, mask=weights)
        return 1 - max(0.0, float(differences.min())) / (3 * float(self.bits.sum())) / self.energy


def _template(pair: FramePair, mask: FrameMask) -> _Template | None:
    """Cut the object out of a masked frame: the pixels that the output shows clearly otherwise; None if too few."""
    source, output = pair.source_rgb(), pair.output_rgb()
    box = mask.box.clip(Size(output.shape[1], output.shape[0]))
    if source is None or box is None or source.shape != output.shape:
        return None
    scale = min(1.0, _TEMPLATE_PX / max(box.width, box.height))
    before, after = (_scaled(image[box.slices], scale) for image in (source, output))
    size = before.shape[1::-1]
    inside = cv2.resize(mask.within(box).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    bits = inside & (cv2.blur(np.abs(before - after), (3, 3)).max(axis=-1) > _VISIBLE_LEVELS)
    if bits.sum() < LEAST_PX:
        return None
    energy = float(((before - after)[bits] ** 2).mean())
    return _Template(box=box, scale=scale, rgb=before, bits=np.asarray(bits, np.bool_), energy=energy)


def _scaled(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[Any]:
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)
