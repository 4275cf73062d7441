"""Judge the fills of a clip by the background that other frames reveal, and elsewhere by their own surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.masks.store import Bits
from vace_batch.quality import revealed, surroundings
from vace_batch.quality.crops import CropPair
from vace_batch.quality.revealed import Revealed, compare_with, fill_box, fill_crop, known_pixels
from vace_batch.quality.surroundings import measure_border

VIEW_PX = 128
"""Width of the surroundings in a view: how far an object may move between two frames that are compared."""

_KEPT = 4
"""Views that later views are compared with: bounds memory and time."""
_COMPARED = 2
"""Other frames that a fill is compared with, before and after."""
_LEAST_SHARE = 0.25
"""A frame that reveals less than this share of what the best frame reveals does not count."""
_SLIVER_PX = 9
_LEAST_UNKNOWN = 0.1
_LEAST_VIEWS = 0.5
"""Fewer borders than this share of the views say nothing of a clip whose other fills are compared with frames."""
_CONTRAST_WEIGHT = 1.7
_PLACE_WEIGHT = 0.5
"""A good fill need not repeat the background's details."""
_MOST_LEVELS = 60.0

Values = npt.NDArray[Any]


@dataclass(slots=True)
class _Kept:
    """A view, and the other frames that it was compared with."""

    view: CropPair
    compared: list[Revealed] = field(default_factory=list)


class FillMeter:
    """Measures the fills of views, which are added in order: wide crops of some frames of a clip.

    With `by_frames`, a fill is to be the background that other frames show; otherwise it is judged by its surroundings
    alone.
    """

    def __init__(self, *, by_frames: bool = True) -> None:
        self._by_frames = by_frames
        self._kept: list[_Kept] = []
        self._unlike: list[tuple[float, float, float]] = []
        self._borders: list[tuple[float, ...]] = []
        self._count = 0
        self._metrics: dict[str, float] = {}

    def add(self, view: CropPair) -> None:
        """Measure the next view of the shot."""
        new = _Kept(view)
        if self._by_frames:
            for old in self._kept:
                _compare(new, old.view)
            for old in self._kept:
                _compare(old, view, most=2 * _COMPARED)
        self._kept.append(new)
        if not self._by_frames or len(self._kept) > _KEPT:
            self._finish(self._kept.pop(_superfluous(self._kept)))

    def begin_shot(self) -> None:
        """Finish the shot before: its medians over the views count, and of a clip's shots the worst."""
        for kept in self._kept:
            self._finish(kept)
        self._kept = []
        for name, value in (*self._by_other_frames(), *self._by_surroundings()):
            self._metrics[name] = max(value, self._metrics.get(name, 0.0))
        self._unlike, self._borders, self._count = [], [], 0

    def metrics(self) -> dict[str, float]:
        """Finish: levels by which fills are `unlike` the background of other frames; `seam`, in levels, `blur` and
        `texture`, 0..1, by which fills differ from their surroundings."""
        self.begin_shot()
        return dict(self._metrics)

    def _by_other_frames(self) -> Iterator[tuple[str, float]]:
        if self._unlike:
            colour, contrast, place = np.median(np.asarray(self._unlike), axis=0)
            yield "unlike", float(max(colour, _CONTRAST_WEIGHT * contrast, _PLACE_WEIGHT * place))

    def _by_surroundings(self) -> Iterator[tuple[str, float]]:
        if len(self._borders) >= _LEAST_VIEWS * self._count > 0:
            steps = np.median(np.asarray(self._borders), axis=0)
            contrasts = steps[surroundings.NUM_COLOUR_STEPS :]
            yield "seam", float(np.abs(steps[: surroundings.NUM_COLOUR_STEPS]).max())
            yield "blur", float(1 - 2 ** -max(0.0, -contrasts.min()))
            yield "texture", float(1 - 2 ** -max(0.0, contrasts.max()))

    def _finish(self, kept: _Kept) -> None:
        """Reduce a view and its comparisons to numbers."""
        self._count += 1
        crop = fill_crop(kept.view)
        unknown = crop.mask
        if kept.compared:
            self._unlike.append(_reduced(kept.compared))
            unknown = _unknown(kept.compared, crop.mask)
        if crop.generated is not None and crop.generated.any():
            unknown = _without_slivers(crop.generated & crop.mask, crop.mask)
        border = measure_border(crop.output.astype(np.float32), unknown) if unknown.any() else None
        if border is not None:
            self._borders.append(border.steps)


def _compare(kept: _Kept, other: CropPair, most: int = _COMPARED) -> None:
    """Compare a kept view's fill with another frame, unless it has been compared with enough frames."""
    if len(kept.compared) < most:
        result = compare_with(kept.view, other)
        if result is not None:
            kept.compared.append(result)


def _unknown(compared: list[Revealed], mask: Bits) -> Bits:
    """Mark the pixels of a fill whose background no other frame reveals, without slivers; none where these are few."""
    return _without_slivers(mask & ~known_pixels(compared, mask), mask)


def _without_slivers(part: Bits, mask: Bits) -> Bits:
    """Remove slivers from a part of a mask; nothing is left of a small part."""
    opened = cv2.morphologyEx(part.view(np.uint8), cv2.MORPH_OPEN, np.ones((_SLIVER_PX, _SLIVER_PX), np.uint8)) > 0
    return np.asarray(opened & (opened.sum() >= _LEAST_UNKNOWN * mask.sum()), np.bool_)


def _superfluous(kept: list[_Kept]) -> int:
    """Choose the view to give up: the oldest if the newest has moved away, else a view with near neighbours."""
    newest = kept[-1].view
    if len(kept) < 3 or kept[0].view.box.intersect(fill_box(newest)) is None:
        return 0
    indices = [each.view.index for each in kept]
    # Views far back lie farther apart: a slow object needs a frame long before, a fast one a frame just before.
    gaps = [
        (after - before) / (newest.index - index)
        for before, index, after in zip(indices, indices[1:-1], indices[2:], strict=False)
    ]
    return 1 + int(np.argmin(gaps))


def _reduced(compared: list[Revealed]) -> tuple[float, float, float]:
    """Reduce a fill's comparisons to its shift of colour, its shift of contrast and its mean excess, in levels.

    Frames that disagree about the background, because something else moves there, count for nothing: the smallest
    shift counts, and a point's smallest distance less the difference between its distances.
    """
    best = max(each.share for each in compared)
    counted = [each for each in compared if each.share >= _LEAST_SHARE * best]
    shifts = np.min([each.shift for each in counted], axis=0)
    distances = np.asarray([each.excess for each in counted])
    known = np.isfinite(distances).any(axis=0)
    distances = distances[:, known]
    lowest, highest = np.nanmin(distances, axis=0), np.nanmax(distances, axis=0)
    excess = np.clip(2 * lowest - highest, 0, _MOST_LEVELS)
    colours, contrasts = shifts[: revealed.NUM_COLOUR_SHIFTS], shifts[revealed.NUM_COLOUR_SHIFTS :]
    return float(colours.max()), float(contrasts.max()), float(excess.mean())
