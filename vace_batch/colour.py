"""Colours and grain of a fill, taken from the picture round it.

Shapes: (H, W, 3) RGB float32 in levels 0..255; (H, W) masks bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float32]
Bits = NDArray[np.bool_]

_CYCLES = 3
_COARSEST_PX = 4
_GRAIN_TOLERANCE = 0.8
_LEAST_GRAIN = 0.75
"""Levels of noise below which nobody sees that it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Source minus source of the frame before, `levels` (H, W, 3), where that is `known` (H, W)."""

    levels: Colour
    known: Bits


def grain(source: Colour, fill: Colour, changed: Bits, change: Change, *, seed: int) -> Colour:
    """Noise (H, W, 3) that the fill lacks beside the source round it, so that it does not look painted; zero or more.

    Noise is measured by the median of |f - 2 g + h| over neighbours, which edges and texture hardly move (Immerkaer's
    operator, as a median), in the source and in what changed of it: fine texture that stands still is no noise.
    Deterministic: `seed` is the frame's number.
    """
    comes_and_goes = _noise(change.levels, ~changed & change.known) / np.sqrt(np.float32(2))
    wanted, has = np.minimum(_noise(source, ~changed), comes_and_goes), _noise(fill, changed)
    lacking = np.where(has < _GRAIN_TOLERANCE * wanted, np.sqrt(np.maximum(wanted**2 - has**2, 0)), 0)
    if not (lacking >= _LEAST_GRAIN).any():
        return np.zeros_like(fill)
    noise = np.random.default_rng(seed).standard_normal(fill.shape, np.float32)
    return np.asarray(noise * lacking * changed[..., None], np.float32)


def _noise(image: Colour, where: Bits) -> Colour:
    """Standard deviation of white noise in each channel, over pixels whose neighbours count too."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    inside = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    if not inside.any():
        return np.zeros(3, np.float32)
    response = np.abs(cv2.filter2D(image, -1, kernel))[inside]
    return np.asarray(np.median(response, axis=0) / (0.6745 * 6), np.float32)


def drift(source: Colour, fill: Colour, known: Bits) -> Colour:
    """What to add to a fill (H, W, 3) so that it meets the source beside it pixel by pixel; zero if none is `known`.

    Where the source is known that is the difference. The rest is the membrane of what differs across the border, fill
    within from source without (Laplace's equation, as in Poisson image editing, Perez 2003), to about a twentieth:
    what differs far and wide goes far inwards, what differs from pixel to pixel does not.
    """
    if not known.any():
        return np.zeros_like(fill)
    free = (~known).astype(np.float32)[..., None]
    near = cv2.blur(free, (3, 3))[..., None]
    within = np.where(near > 0, cv2.blur(fill * free, (3, 3)) / np.maximum(near, np.float32(1e-6)), fill)
    added = _pulled(source - within, (known & (near[..., 0] > 0)).astype(np.float32))
    for _ in range(_CYCLES):
        added += _correction(free * (_mean_of_four(added) - added), free)
    return np.where(known[..., None], source - fill, added)


def _pulled(colour: Colour, weight: Colour) -> Colour:
    """A first guess: colours (H, W, 3) of weight (H, W) 0..1, carried from coarse to fine to where they have none."""
    height, width = weight.shape
    if min(height, width) > 2:
        part = _halved(weight)
        mean = _halved(colour * weight[..., None]) / np.maximum(part, np.float32(1e-6))[..., None]
        coarse = _pulled(np.asarray(mean, np.float32), np.minimum(1, 4 * part))
        below = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    else:
        below = np.broadcast_to((colour * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6), colour.shape)
    return np.asarray(weight[..., None] * colour + (1 - weight[..., None]) * below, np.float32)


def _correction(lack: Colour, free: Colour) -> Colour:
    """Nearly the e (H, W, 3) that is the mean of its neighbours plus `lack` where `free` (H, W, 1), and zero elsewhere.

    One cycle of multigrid (Brandt 1977): what varies slowly is solved at half the size.
    """
    height, width = lack.shape[:2]
    if min(height, width) <= _COARSEST_PX:
        return _relaxed(free * lack, lack, free, 16)
    found = _relaxed(free * lack, lack, free, 1)
    left = free * (lack - found + _mean_of_four(found))
    coarse = _correction(4 * _halved(left), (_halved(free) > 0.99).astype(np.float32)[..., None])
    found += free * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return _relaxed(found, lack, free, 2)


def _relaxed(found: Colour, lack: Colour, free: Colour, times: int) -> Colour:
    for _ in range(times):
        found = found + free * (0.8 * (_mean_of_four(found) - found + lack))
    return found


def _mean_of_four(image: Colour) -> Colour:
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    return np.asarray(cv2.filter2D(image, -1, cross, borderType=cv2.BORDER_REPLICATE), np.float32)


def _halved(image: Colour) -> Colour:
    height, width = image.shape[:2]
    size = ((width + 1) // 2, (height + 1) // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)
