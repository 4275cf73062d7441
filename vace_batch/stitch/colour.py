"""Match a fill's colours and grain to the source round it.

Shapes: (H, W, 3) RGB float32 in levels 0..255; (H, W) masks bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.background.fill import spread_inwards
from vace_batch.masks.store import Bits

Colour = NDArray[np.float32]

_CYCLES = 2
_COARSEST_PX = 4
_DAMPING = np.float32(0.8)
_COARSER = np.float32(3)
"""In theory 4 for pixels of twice the size; coarse pixels reach beyond the border, and with 4 cycles can diverge."""
_GRAIN_TOLERANCE = 0.8
_LEAST_GRAIN = 0.75
"""Less missing noise than this, in levels, cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Source minus the source of the frame before: `levels` (H, W, 3), valid where `known` (H, W)."""

    levels: Colour
    known: Bits


def grain(source: Colour, fill: Colour, changed: Bits, change: Change, *, seed: int) -> Colour:
    """Return the noise (H, W, 3) that a fill lacks beside the source round it, or zeros.

    Without noise a fill looks painted. Noise is measured by the median of |f - 2 g + h| over neighbours, which edges
    and texture hardly move (Immerkaer's operator, as a median), in the source and in the source's change since the
    frame before: fine texture that stands still is not noise. Deterministic: `seed` is the frame's number.
    """
    comes_and_goes = _noise(change.levels, ~changed & change.known) / np.sqrt(np.float32(2))
    wanted = np.minimum(_noise(source, ~changed), comes_and_goes)
    has = _noise(fill, changed)
    lacking = np.where(has < _GRAIN_TOLERANCE * wanted, np.sqrt(np.maximum(wanted**2 - has**2, 0)), 0)
    if not (lacking >= _LEAST_GRAIN).any():
        return np.zeros_like(fill)
    noise = np.random.default_rng(seed).standard_normal(fill.shape, np.float32)
    return np.asarray(noise * lacking * changed[..., None], np.float32)


def _noise(image: Colour, where: Bits) -> Colour:
    """Return the standard deviation of white noise per channel, over pixels whose neighbours count too."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    inside = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    if not inside.any():
        return np.zeros(3, np.float32)
    response = np.abs(cv2.filter2D(image, -1, kernel))[inside]
    return np.asarray(np.median(response, axis=0) / (0.6745 * 6), np.float32)


def drift(source: Colour, fill: Colour, known: Bits) -> Colour:
    """Return the correction (H, W, 3) by which a fill meets the source pixel by pixel; zero if no pixel is `known`.

    Where the source is known the correction is source minus fill. Elsewhere it is the membrane of the difference across
    the border, between the fill inside and the source outside (Laplace's equation, as in Poisson image editing, Perez
    2003), to about a tenth: a difference along a long border reaches far inwards, a difference of single pixels does
    not.
    """
    if not known.any():
        return np.zeros_like(fill)
    added = source - fill
    rows = np.flatnonzero((~known).any(axis=1))
    columns = np.flatnonzero((~known).any(axis=0))
    if not len(rows):
        return added
    hole = np.s_[max(0, rows[0] - 1) : rows[-1] + 2, max(0, columns[0] - 1) : columns[-1] + 2]
    beside, free = known[hole], (~known[hole]).astype(np.float32)[..., None]
    near = cv2.blur(free, (3, 3))[..., None]
    within = cv2.blur(fill[hole] * free, (3, 3)) / np.maximum(near, np.float32(1e-6))
    membrane = _membrane(np.asarray(source[hole] - within, np.float32), beside & (near[..., 0] > 0))
    added[hole] = np.where(beside[..., None], added[hole], membrane)
    return added


def _membrane(values: Colour, known: Bits) -> Colour:
    """Keep `values` (H, W, 3) where `known`; elsewhere make each pixel about the mean of its four neighbours."""
    membrane = spread_inwards(values, known)
    free = np.repeat((~known)[..., None].astype(np.float32), 3, axis=2)
    for _ in range(_CYCLES):
        membrane += _correction((_mean_of_four(membrane) - membrane) * free, free)
    return membrane


def _correction(lack: Colour, free: Colour) -> Colour:
    """Approximate the e (H, W, 3) that is the mean of its neighbours plus `lack` where `free`, and zero elsewhere.

    One cycle of multigrid (Brandt 1977): slow variations are solved at half the size. `free` is (H, W, 3).
    """
    solution = _DAMPING * free * lack
    if min(lack.shape[:2]) <= _COARSEST_PX:
        return _relaxed(solution, lack, free, 16)
    residual = (_mean_of_four(solution) - solution + lack) * free
    inner = (_halved(free) > 0.99).astype(np.float32)
    solution += _doubled(_correction(_COARSER * _halved(residual), inner), lack.shape[:2]) * free
    return _relaxed(solution, lack, free, 2)


def _relaxed(solution: Colour, lack: Colour, free: Colour, times: int) -> Colour:
    pull = _DAMPING * free
    for _ in range(times):
        step = _mean_of_four(solution)
        step -= solution
        step += lack
        step *= pull
        solution += step
    return solution


def _mean_of_four(image: Colour) -> Colour:
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    return np.asarray(cv2.filter2D(image, -1, cross, borderType=cv2.BORDER_REPLICATE), np.float32)


def _halved(image: Colour) -> Colour:
    """Halve an image; the last pixels of an odd side are repeated, so that each new pixel stands for four."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    size = ((width + 1) // 2, (height + 1) // 2)
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.float32)


def _doubled(image: Colour, size: tuple[int, ...]) -> Colour:
    """Enlarge an image twice, and cut it to the height and width `size`."""
    height, width = image.shape[:2]
    large = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large[: size[0], : size[1]], np.float32)
