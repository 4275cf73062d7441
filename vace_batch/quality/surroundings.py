"""Compare a frame's fill with its own surroundings across the border of the mask: colour and contrast.

The border is cut into pieces. Over each piece, the means of the two sides are subtracted, for colours close to the
border and for contrasts of two scales farther in. What a faultless fill scores comes from the picture itself: the same
piece is laid at random places of the surroundings, where both sides are known. A fault counts by as much as it exceeds
the spread of these places, so that a rough, dark or uneven picture gives no false alarm.

Shape legend: H rows, W columns, C channels, N pixels of a piece, K kernels, T places, F = K * C features, P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.masks.refine import feather_alpha
from vace_batch.masks.store import Bits

FloatImage = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

NUM_COLOUR_STEPS = 6
"""Columns of `Border.steps` that are colours, in levels; the others are contrasts, in powers of two."""

_PIECE_PX = 20
_LEAST_BORDER_PX = 12
_LEAST_SIDE_PX = 3
_COLOUR_BANDS = ((1.0, 5.0), (0.5, 3.0))
"""Distances from the border, in pixels, between which the colours of the sides are averaged, by kernel."""
_CONTRAST_DEPTHS_PX = (20.0, 10.0)
"""Depth of the sides whose contrasts are averaged; the smaller one where the surroundings have no room for more."""
_FEATHER_PX = 2
_PLACES = 24
_LEAST_PLACES = 4
_SCALES_PX = (0.7, 1.6, 3.6)
_INVISIBLE = (1.0, 0.3, 0.1)
"""Squared slopes, in levels a pixel, below which the contrast of each scale is not seen."""
_LEAST_SPREAD = 0.03
_ALONG = 1.5
"""So many pieces in a row have the evidence of one."""
_SIDES = 2.0
"""The two sides of a thin mask show the same: a square of a piece's length has the evidence of so many pieces."""
_COLOUR_WINDOWS = ((1.0, 2.0), (0.5, 3.0), (0.25, 4.0))
_CONTRAST_WINDOWS = ((1.0, 2.0), (0.5, 3.0))
"""Share of the border that a fault takes up, and the spreads that it must exceed: the shorter, the more."""
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """The steps across the border of one frame's fill, inside less outside, beyond the steps of the surroundings.

    `steps`: levels of Y, B - Y and R - Y by two kernels; powers of two of the fine and middle contrast, and of the
    ratios fine to middle and middle to coarse. 0 where nothing exceeds the spread.
    """

    steps: tuple[float, ...]


class _Piece(NamedTuple):
    """Pixels (N,) on both sides of a piece of the border, and the weights (K, N) of their difference."""

    rows: Indices
    columns: Indices
    weights: FloatImage


class _Step(NamedTuple):
    """Features (F,) of one piece: the step across the border, and mean and spread of the steps at other places."""

    step: FloatImage
    usual: FloatImage
    spread: FloatImage


def measure_border(output: FloatImage, mask: Bits) -> Border | None:
    """Measure a crop of the output in float32 levels; None where the surroundings have no room for a comparison."""
    owners, count = _owners(mask)
    if not count or mask.all():
        return None
    distance = _distance(mask)
    taken = cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    feather = feather_alpha(mask, _FEATHER_PX).astype(np.float32)
    colours, contrasts = _colours(output), _contrasts(output)
    random = np.random.default_rng(0)
    pieces = []
    for number in range(count):
        mine = owners == number
        near = _colour_step(colours, _piece(mine, distance, _COLOUR_BANDS), taken, feather, random)
        far = _contrast_step(contrasts, mine, distance, taken, random)
        if near is not None and far is not None:
            pieces.append([np.concatenate(pair) for pair in zip(near, far, strict=True)])
    if not pieces:
        return None
    step, usual, spread = np.asarray(pieces, np.float32).transpose(1, 0, 2)
    independent = min(len(pieces) / _ALONG, _SIDES * float(mask.sum()) / _PIECE_PX**2)
    steps, spread = step - usual, np.maximum(spread, _LEAST_SPREAD)
    parts = ((np.s_[:, :NUM_COLOUR_STEPS], _COLOUR_WINDOWS), (np.s_[:, NUM_COLOUR_STEPS:], _CONTRAST_WINDOWS))
    beyond = [_exceeding(steps[part], spread[part], independent, windows) for part, windows in parts]
    return Border(steps=tuple(float(value) for value in np.concatenate(beyond)))


def _owners(mask: Bits) -> tuple[npt.NDArray[np.int32], int]:
    """Number the pieces of the mask's border; return each pixel's nearest piece (H, W), and the number of pieces."""
    pieces = np.full(mask.shape, -1, np.int32)
    count = 0
    for contour in cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]:
        length = len(contour)
        if length < _LEAST_BORDER_PX:
            continue
        parts = max(1, round(length / _PIECE_PX))
        pieces[contour[:, 0, 1], contour[:, 0, 0]] = count + np.arange(length) * parts // length
        count += parts
    if not count:
        return pieces, 0
    away = (pieces < 0).view(np.uint8)
    nearest = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    numbers = np.zeros(int(nearest.max()) + 1, np.int32)
    numbers[nearest[pieces >= 0]] = pieces[pieces >= 0]
    return numbers[nearest], count


def _distance(mask: Bits) -> FloatImage:
    """Measure each pixel's distance from the border, in pixels, negative inside the mask."""
    outward, inward = (cv2.distanceTransform(bits.view(np.uint8), cv2.DIST_L2, 5) for bits in (~mask, mask))
    return np.asarray(outward - inward, np.float32)


def _colours(image: FloatImage) -> FloatImage:
    bright = image @ _LUMA
    return np.dstack([bright, image[..., 2] - bright, image[..., 0] - bright])


def _contrasts(image: FloatImage) -> FloatImage:
    """Measure the logarithms to base 2 of contrast (H, W, 4): fine, middle, fine to middle, middle to coarse."""
    bright = image @ _LUMA
    scales = []
    for sigma, invisible in zip(_SCALES_PX, _INVISIBLE, strict=True):
        smooth = cv2.GaussianBlur(bright, (0, 0), sigma)
        slopes = _slopes(smooth, fine=sigma < 1)
        logs = [np.log2(cv2.GaussianBlur(slope * slope, (0, 0), max(1.5, sigma)) + invisible) / 2 for slope in slopes]
        scales.append((logs[0] + logs[1]) / 2)
    fine, middle, coarse = scales
    return np.dstack([fine, middle, fine - middle, middle - coarse])


def _slopes(image: FloatImage, *, fine: bool) -> list[FloatImage]:
    size, scale = (1, 0.5) if fine else (3, 0.125)
    return [cv2.Sobel(image, cv2.CV_32F, *way, ksize=size, scale=scale) for way in ((1, 0), (0, 1))]


def _piece(mine: Bits, distance: FloatImage, bands: tuple[tuple[float, float], ...], sparse: int = 1) -> _Piece | None:
    """Collect the pixels beside a piece, every `sparse`-th of them; None where a side has too few in a band."""
    deepest = max(band[1] for band in bands)
    rows, columns = np.nonzero(mine & (np.abs(distance) <= deepest))
    rows, columns = rows[::sparse], columns[::sparse]
    at = distance[rows, columns]
    weights = np.zeros((len(bands), len(rows)), np.float32)
    for kernel, (start, stop) in enumerate(bands):
        outside, inside = (at > start) & (at <= stop), (-at > start) & (-at <= stop)
        if min(outside.sum(), inside.sum()) < _LEAST_SIDE_PX:
            return None
        weights[kernel, inside] = 1 / inside.sum()
        weights[kernel, outside] = -1 / outside.sum()
    return _Piece(rows, columns, weights)


def _colour_step(
    colours: FloatImage, piece: _Piece | None, taken: Bits, feather: FloatImage, random: np.random.Generator
) -> _Step | None:
    """Measure a piece's steps of colour, in levels of a fill that is off as a whole: feathering hides a part."""
    step = None if piece is None else _step(colours, piece, taken, random)
    if piece is None or step is None:
        return None
    seen = np.repeat(np.maximum(piece.weights @ feather[piece.rows, piece.columns], 0.2), colours.shape[2])
    return _Step(step.step / seen, step.usual / seen, step.spread / seen)


def _contrast_step(
    contrasts: FloatImage, mine: Bits, distance: FloatImage, taken: Bits, random: np.random.Generator
) -> _Step | None:
    """Measure a piece's steps of contrast, with the deepest sides that the picture has room for."""
    for depth in _CONTRAST_DEPTHS_PX:
        piece = _piece(mine, distance, ((2.0, depth),), sparse=3)
        step = None if piece is None else _step(contrasts, piece, taken, random)
        if step is not None:
            return step
    return None


def _step(values: FloatImage, piece: _Piece, taken: Bits, random: np.random.Generator) -> _Step | None:
    """Measure the step of `values` (H, W, C) across a piece, and at other places free of the mask."""
    rows, columns = piece.rows, piece.columns
    height, width = taken.shape
    down = random.integers(-rows.min(), height - rows.max(), 4 * _PLACES)
    right = random.integers(-columns.min(), width - columns.max(), 4 * _PLACES)
    free = ~taken[rows[::3, None] + down, columns[::3, None] + right].any(axis=0)
    down, right = down[free][:_PLACES], right[free][:_PLACES]
    if len(down) < _LEAST_PLACES:
        return None
    there = np.tensordot(piece.weights, values[rows[:, None] + down, columns[:, None] + right], (1, 0))
    here = piece.weights @ values[rows, columns]
    return _Step(here.ravel(), there.mean(axis=1).ravel(), there.std(axis=1).ravel())


def _exceeding(
    steps: FloatImage, spread: FloatImage, independent: float, windows: tuple[tuple[float, float], ...]
) -> FloatImage:
    """Reduce steps (P, F) to the largest mean over a stretch of the border, less the spread that it must exceed, (F,).

    The whole border has the evidence of so many `independent` pieces.

    A fill that is wrong as a whole has a step all round, a fill that is wrong in a part has a step along a part.
    """
    largest = np.zeros(steps.shape[1], np.float32)
    for share, times in windows:
        length = max(1, round(len(steps) * share))
        stretch = (np.arange(len(steps))[:, None] + np.arange(length)) % len(steps)
        mean = steps[stretch].mean(axis=1)
        error = np.sqrt((spread[stretch] ** 2).mean(axis=1) / max(1.0, independent * length / len(steps)))
        beyond = np.maximum(np.abs(mean) - times * error, 0) * np.sign(mean)
        best = beyond[np.abs(beyond).argmax(axis=0), np.arange(beyond.shape[1])]
        largest = np.where(np.abs(best) > np.abs(largest), best, largest)
    return largest
