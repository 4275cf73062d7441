"""Look for the removed object in the frames without a mask beside and between masked ones.

A tracker that loses an object for some frames, or finds it late, leaves frames in which the object flashes up. The
object's pixels of the nearest masked frame are searched near the place where they are expected. How well they match is
compared with two matches in the clip itself: with the next masked frame of the source, which shows the object, and with
the masked frame of the output, which does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.quality.compare import Comparison, FramePair
from vace_batch.quality.residue import LEAST_PX

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
    if not masked:
        return
    gaps = [(None, masked[0]), *((a, b) for a, b in pairwise(masked) if b > a + 1), (masked[-1], None)]
    known = frozenset(masked)
    for before, after in gaps:
        if before is not None:
            stop = asked.stop if after is None else after
            bare = _same_shot(range(before + 1, min(before + 1 + BESIDE_FRAMES, stop)), cuts, forward=True)
            if bare and before - 1 in known and before not in cuts:
                yield _Edge(masked=before, inner=before - 1, bare=bare)
        if after is not None:
            start = asked.start if before is None else before + 1
            near = range(after - 1, max(after - 1 - BESIDE_FRAMES, start - 1), -1)
            bare = _same_shot(near, cuts, forward=False) if after not in cuts else ()
            if bare and after + 1 in known and after + 1 not in cuts:
                yield _Edge(masked=after, inner=after + 1, bare=bare)


def _same_shot(frames: range, cuts: frozenset[int], *, forward: bool) -> tuple[int, ...]:
    """Return the frames up to the first cut, going away from the masked frame."""
    kept: list[int] = []
    for index in frames:
        if forward and index in cuts:
            break
        kept.append(index)
        if not forward and index in cuts:
            break
    return tuple(kept)


def _shown(comparison: Comparison, edge: _Edge) -> set[int]:
    """Return the frames without a mask at one edge that show the object; at least two, unless there is only one."""
    frames = (edge.masked, edge.inner, *edge.bare)
    pairs = {pair.index: pair for pair in comparison.pairs(range(min(frames), max(frames) + 1))}
    masks = {index: comparison.masks(index, index + 1).get(index) for index in (edge.masked, edge.inner)}
    mask, inner = masks[edge.masked], masks[edge.inner]
    if mask is None or inner is None:
        return set()
    template = _template(pairs[edge.masked], mask, comparison)
    if template is None:
        return set()
    step = _centre(mask.box) - _centre(inner.box)
    own = template.match(pairs[edge.inner].source_rgb(), -step)
    bare = template.match(pairs[edge.masked].output_rgb(), np.zeros(2))
    if own is None or bare is None or own - bare < _LEAST_CONTRAST:
        return set()
    shown: set[int] = set()
    for number, index in enumerate(edge.bare, 1):
        match = template.match(pairs[index].output_rgb(), number * step)
        if match is None or match < bare + _MATCH * (own - bare):
            break
        shown.add(index)
    return shown if len(shown) >= min(2, len(edge.bare)) else set()


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


def _template(pair: FramePair, mask: FrameMask, comparison: Comparison) -> _Template | None:
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
