"""Measure how much of a removed object a frame's fill still shows: pure functions on crops.

Background that a mask covers by its margin looks in the output as in the source, and so does an object that was left.
Two questions tell them apart. Where the output equals the source: do the surroundings of the mask have the source's
appearance anywhere? Where the output differs from the source: how much of the source's gradients does the output hold
in exactly their place, more than in places beside it? The answer to the second is fitted over shifts of the source by
the source's own autocorrelation, so that texture alike in object and background counts for nothing.

Shape legend: H rows, W columns, 3 RGB; crops show a mask and a ring of known pixels round the mask, in float32 levels
of 0..255.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from vace_batch.background.fill import spread_inwards
from vace_batch.geometry import Box
from vace_batch.masks.store import Bits
from vace_batch.quality.measures import LEAST_PX, luma

FloatImage = npt.NDArray[Any]

_LEAST_TOLERANCE = 3.0
_MOST_TOLERANCE = 12.0
_RELIT_LEVELS = 10.0
"""A fill that differs from the source by a smooth change of light of at most this size shows the same thing."""

_SAMPLES = 1500
_APART_PX = 16
"""Samples of the ring nearer than this are no evidence of how alike the ring is to itself."""
_LEAST_DISTANCE = 8.0
_QUANTILE = 0.97
_BEYOND = 1.25
_REACH_PX = 6
"""Features of pixels nearer than this to a changed pixel may come from the changed pixel."""

_GRADIENT = 1.5
"""Slope of the weakest gradient that counts, in levels a pixel."""
_RELIT_GAIN = 1.08
_RELIT_CORRELATION = 0.7
_DIAGONAL = 0.7
_WAYS = (
    *((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)),
    *((_DIAGONAL, _DIAGONAL), (-_DIAGONAL, _DIAGONAL), (_DIAGONAL, -_DIAGONAL), (-_DIAGONAL, -_DIAGONAL)),
)
_SHIFTS = tuple((round(x * radius), round(y * radius)) for radius in (3, 6, 10, 14) for x, y in _WAYS)
_LEAST_OVERLAP = 0.25
_SIGNIFICANT = 2.0
"""Standard errors of an opacity that are taken off for what is surely left."""

_LEAST_EVIDENCE = 0.3
_CAMOUFLAGED = 0.15
_LEAST_SHARE = 0.05
"""An object is at least this share of its mask; less that looks like an object is an accident."""

_UNCHANGED = 0.03
_ROW = 3
"""Frames in a row that show an object before they count: a single frame may be an accident of noise."""
_ROW_WEIGHT = 0.5
_PART_WEIGHT = 0.4
_CLEARLY = 1.3
"""Pixels of a fill are taken for a moved object from so many limits away from the surroundings on."""
_MOVED_WEIGHT = 0.75
"""Surroundings that were not seen may look like the object."""
_LEAST_QUARTER = 0.08
"""A smaller part of the object is no quarter."""
_VISIBLE_LEVELS = 14.0
_VISIBLE_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Residue:
    """The rest of an object in one frame.

    `equal`: pixels that show the object as in the source. `replaced`: pixels of the object that were changed; they show
    the source at `opacity`, which is signed and has a standard error `error`. `moved`: pixels of the output that look
    like the object, in its place or beside. `changed`: the share of the mask in which
    the output differs from the source. `area`: the object's pixels, at least a small share of the mask. `quarters`: the
    numbers of `equal` and `replaced` pixels in each quarter of the mask.
    """

    equal: float
    replaced: float
    opacity: float
    error: float
    moved: float
    changed: float
    area: float
    quarters: tuple[tuple[float, float], ...] = ()

    @property
    def left(self) -> float:
        """The share of the object that is shown, by area and opacity, 0..1."""
        return float(np.clip((self.equal + self.opacity * self.replaced) / self.area, 0.0, 1.0))

    @property
    def surely_left(self) -> float:
        """The share of the object that is shown at least, 0..1: less the error of the opacity's fit."""
        opacity = max(0.0, self.opacity - _SIGNIFICANT * self.error)
        return min(1.0, (self.equal + max(opacity * self.replaced, _MOVED_WEIGHT * self.moved)) / self.area)


def measure_residue(source: FloatImage, output: FloatImage, mask: Bits) -> Residue | None:
    """Measure the rest of the object in a crop of source and output; None with too few pixels in mask or ring."""
    ring = ~_grown(mask, 4)
    area = int(mask.sum())
    if ring.sum() < LEAST_PX or area < LEAST_PX:
        return None
    changed = mask & ~_equal(source, output, ring)
    features = _features(source)
    unlike = _unlike_surroundings(features, mask)
    equal = unlike & ~changed
    left = equal & _grown(equal & ~_grown(changed, _REACH_PX), _REACH_PX)
    where, replaced = _replaced(unlike, changed, area)
    quarters = tuple((float(left[part].sum()), float(replaced[part].sum())) for part in _quarters(mask))
    opacity, error = opacity_of(source, output, where)
    numbers = float(left.sum()), float(replaced.sum())
    return Residue(
        equal=numbers[0],
        replaced=numbers[1],
        opacity=opacity,
        error=error,
        moved=_moved(_sampled(features, unlike), output, changed, mask),
        changed=float(changed.sum()) / area,
        quarters=quarters,
        area=max(sum(numbers), _LEAST_SHARE * area),
    )


def _quarters(mask: Bits) -> Iterator[tuple[slice, slice]]:
    """Divide the crop at the middle of the mask's rows and columns."""
    rows, columns = (int(np.median(at)) for at in np.nonzero(mask))
    for upper in (slice(None, rows), slice(rows, None)):
        for side in (slice(None, columns), slice(columns, None)):
            yield upper, side


def _replaced(unlike: Bits, changed: Bits, area: int) -> tuple[Bits, Bits]:
    """Mark the changed pixels that belong to the object, with their margin and without.

    A camouflaged object looks like its surroundings: then all that was changed is taken for the object, unless that is
    so little that it is coding noise.
    """
    replaced = unlike & changed
    if replaced.sum() >= _LEAST_EVIDENCE * changed.sum():
        return changed & _grown(unlike, 3), replaced
    if changed.sum() >= _CAMOUFLAGED * area:
        return changed, changed
    return np.zeros_like(changed), np.zeros_like(changed)


def _equal(source: FloatImage, output: FloatImage, ring: Bits) -> Bits:
    """Mark the pixels that output and source show alike, but for coding noise and a smooth change of light."""
    difference = output - source
    sizes = _largest(difference)
    tolerance = float(np.clip(2 * np.quantile(sizes[ring], 0.95), _LEAST_TOLERANCE, _MOST_TOLERANCE))
    light = cv2.GaussianBlur(difference, (0, 0), 4.0)
    relit = (_largest(difference - light) <= tolerance) & (np.abs(light).max(axis=-1) <= _RELIT_LEVELS)
    return np.asarray((sizes <= tolerance) | relit, np.bool_)


def _largest(difference: FloatImage) -> FloatImage:
    return np.asarray(cv2.blur(np.abs(difference), (3, 3)).max(axis=-1), np.float32)


def unlike_surroundings(source: FloatImage, mask: Bits) -> Bits:
    """Mark the masked pixels whose colours and texture the mask's surroundings do not have; see `_Surroundings`."""
    return _unlike_surroundings(_features(source), mask)


def _unlike_surroundings(features: FloatImage, mask: Bits, times: float = 1.0, where: Bits | None = None) -> Bits:
    """Mark the pixels `where`, by default the masked ones, whose features (H, W, F) the surroundings do not have."""
    surroundings = _sampled(features, ~_grown(mask, 3))
    where = mask if where is None else where
    return np.zeros_like(mask) if surroundings is None else surroundings.unlike(features, where, times)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Surroundings:
    """The features of pixels of a picture, and the distance that all but few of them keep to a pixel apart.

    The limit comes from the picture itself: how far its pixels are from the most alike pixel elsewhere in it.
    """

    tree: cKDTree
    limit: float

    def unlike(self, features: FloatImage, mask: Bits, times: float = 1.0) -> Bits:
        """Mark the masked pixels (H, W) with features (H, W, F) that are farther than some limits from all pixels."""
        half = mask[::2, ::2]
        rows, columns = np.nonzero(half)
        distances, _ = self.tree.query(features[2 * rows, 2 * columns], distance_upper_bound=times * self.limit)
        marks = np.zeros(half.shape, np.uint8)
        marks[rows, columns] = ~np.isfinite(distances)
        whole = cv2.resize(marks, (mask.shape[1], mask.shape[0]), interpolation=cv2.INTER_NEAREST)
        return np.asarray(mask & (cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0), np.bool_)


def _sampled(features: FloatImage, where: Bits) -> _Surroundings | None:
    """Sample the pixels `where`; None with too few of them."""
    rows, columns = np.nonzero(where)
    if len(rows) < 2 * LEAST_PX:
        return None
    picked = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(np.int64)
    rows, columns = rows[picked], columns[picked]
    tree = cKDTree(features[rows, columns])
    return _Surroundings(tree=tree, limit=_limit(tree, rows, columns))


def _moved(of_object: _Surroundings | None, output: FloatImage, changed: Bits, mask: Bits) -> float:
    """Count the changed pixels of the output that look like the source's object, wherever in the mask they are.

    A fill that was taken from frames in which the object stood a little beside shows the object, but not in its place.
    """
    if of_object is None or not changed.any():
        return 0.0
    features = _features(output)
    foreign = _unlike_surroundings(features, mask, _CLEARLY, changed)
    return float((foreign & ~of_object.unlike(features, changed)).sum())


def _limit(tree: cKDTree, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> float:
    """Return the distance of features that all but few of the tree's points keep to a point apart in the picture."""
    distances, neighbours = tree.query(tree.data, k=min(24, tree.n))
    gaps = np.hypot(rows[neighbours] - rows[:, None], columns[neighbours] - columns[:, None])
    nearest = np.where(gaps >= _APART_PX, distances, np.inf).min(axis=1)
    nearest = np.where(np.isfinite(nearest), nearest, distances[:, -1])
    return max(float(np.quantile(nearest, _QUANTILE)) * _BEYOND, _LEAST_DISTANCE)


def _features(image: FloatImage) -> FloatImage:
    """Describe each pixel by its surroundings' colour and its contrast at two scales, (H, W, 5), in levels."""
    bright = luma(image)
    fine = cv2.GaussianBlur(bright, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(bright, (0, 0), 3.0)
    contrasts = [3 * cv2.blur(np.abs(band), (9, 9)) for band in (bright - fine, fine - coarse)]
    return np.dstack([cv2.blur(image, (5, 5)), *contrasts])


def opacity_of(source: FloatImage, output: FloatImage, where: Bits) -> tuple[float, float]:
    """Fit the opacity at which the output shows the source's gradients in `where`, and its standard error.

    Gradients that the output repeats larger do not count: a shadow that was lifted shows its ground's texture again.
    """
    before, after = _gradients(source), _gradients(output)
    energy, common, energy_after = (
        cv2.blur((one * other).sum(axis=-1), (9, 9))
        for one, other in ((before, before), (before, after), (after, after))
    )
    relit = (common > _RELIT_GAIN * energy) & (common**2 > _RELIT_CORRELATION * energy * energy_after)
    where = where & ~relit & (np.abs(before).max(axis=-1) > _GRADIENT)
    rows, columns = np.nonzero(where)
    if len(rows) < LEAST_PX:
        return 0.0, 0.0
    itself, shown = [], []
    for x, y in ((0, 0), *_SHIFTS):
        to_rows = np.clip(rows + y, 0, where.shape[0] - 1)
        to_columns = np.clip(columns + x, 0, where.shape[1] - 1)
        inside = where[to_rows, to_columns]
        if inside.sum() < max(LEAST_PX, _LEAST_OVERLAP * len(rows)):
            continue
        here = before[rows[inside], columns[inside]]
        there = to_rows[inside], to_columns[inside]
        size = float((here * here).sum())
        itself.append(float((here * before[there]).sum()) / size)
        shown.append(float((here * after[there]).sum()) / size)
    return _slope(np.asarray(itself), np.asarray(shown))


def _slope(itself: FloatImage, shown: FloatImage) -> tuple[float, float]:
    """Fit `shown = slope * itself`; returns the slope and its standard error."""
    energy = float((itself * itself).sum())
    slope = float((itself * shown).sum()) / energy
    return min(1.0, slope), float(np.sqrt(np.mean((shown - slope * itself) ** 2)) / np.sqrt(energy))


def _gradients(image: FloatImage) -> FloatImage:
    """Differentiate the three channels along x and along y, (H, W, 6), in levels a pixel."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.dstack([cv2.Sobel(smooth, cv2.CV_32F, *way, ksize=3) for way in ((1, 0), (0, 1))]) / 8


def _grown(bits: Bits, px: int) -> Bits:
    side = 2 * px + 1
    return cv2.dilate(bits.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)


class ResidueMeter:
    """Gathers the residues of a clip's masked frames, which are added in order."""

    def __init__(self) -> None:
        self._frames = array("q")
        self._values = array("f")
        self._quarters: npt.NDArray[np.float64] = np.zeros((4, 2))
        self._before: tuple[Box, Bits] | None = None

    def add(self, index: int, box: Box, source: FloatImage, output: FloatImage, mask: Bits) -> None:
        """Measure a masked frame: crops of one size, the mask's bits, and the crops' place `box` in the frame."""
        before, self._before = self._before, (box, mask)
        follows = before is not None and not (before[0] == box and np.array_equal(before[1], mask))
        residue = measure_residue(source, output, mask)
        if residue is None:
            return
        is_equal = residue.changed < _UNCHANGED
        shown = residue.equal + residue.opacity * residue.replaced
        sure = residue.surely_left
        # A mask that follows something shows where an object is; a mask that stands still may wait for the object.
        if is_equal and follows and shows_something(source, mask):
            shown, sure = residue.area, 1.0
        if follows:  # a mask that stands still covers a part of the background all the time
            self._quarters += residue.quarters
        self._frames.append(index)
        self._values.extend((shown, residue.area, sure, is_equal))

    def metrics(self) -> dict[str, float]:
        """Finish: the metrics `residual` and `unchanged`, in shares.

        `residual` is the largest of these: the share of the object that is left over the clip; half the share that is
        surely left in the worst three frames in a row; .4 of the share of a quarter of the object that was not changed.
        `unchanged` is the share of the frames in which nothing was changed.
        """
        if not self._frames:
            return {}
        frames = np.frombuffer(self._frames, np.int64)
        values = np.frombuffer(self._values, np.float32).reshape(-1, 4).astype(np.float64)
        shown, area, sure, equal = values.T
        mean = float(np.clip(shown.sum() / max(1.0, float(area.sum())), 0.0, 1.0))
        starts = [at for at in range(len(sure) - _ROW + 1) if frames[at + _ROW - 1] - frames[at] == _ROW - 1]
        worst = max((float(sure[at : at + _ROW].min()) for at in starts), default=0.0)
        part = _PART_WEIGHT * self._most_equal_quarter()
        return {"residual": max(mean, _ROW_WEIGHT * worst, part), "unchanged": float(equal.mean())}

    def _most_equal_quarter(self) -> float:
        """Return the largest share of a quarter of the object that is shown as in the source, over the clip."""
        whole = self._quarters.sum(axis=1)
        large = whole > _LEAST_QUARTER * whole.sum()
        return float((self._quarters[large, 0] / whole[large]).max()) if large.any() else 0.0


def shows_something(source: FloatImage, mask: Bits) -> bool:
    """Tell whether the source shows more inside the mask than a smooth continuation of the mask's surroundings."""
    beyond = np.abs(source - spread_inwards(source, ~mask)).max(axis=-1)[mask]
    return float((beyond > _VISIBLE_LEVELS).mean()) > _VISIBLE_SHARE
