"""Colours and grain of a fill, taken from the picture round it.

Shapes: (H, W, 3) RGB float32 in levels 0..255; (H, W) masks bool.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float32]
Bits = NDArray[np.bool_]

_RING_BLUR = 4.0
_GRAIN_TOLERANCE = 0.8
_LEAST_GRAIN = 0.75
"""Levels of noise below which nobody sees that it is missing."""


def grain(source: Colour, fill: Colour, changed: Bits, *, seed: int) -> Colour:
    """Noise (H, W, 3) that the fill lacks beside the source round it, so that it does not look painted; zero or more.

    Noise is measured by the median of |f - 2 g + h| over neighbours, which edges and texture hardly move (Immerkaer's
    operator, as a median). Deterministic: `seed` is the frame's number.
    """
    wanted, has = _noise(source, ~changed), _noise(fill, changed)
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


def drift(difference: Colour, known: Bits) -> Colour:
    """What to add to a fill so that its colours meet the source's round it: smooth, and zero if none is known.

    `difference` (H, W, 3) is source minus fill, of which only the `known` (H, W) pixels count. It is blurred, so that
    texture stays out, and carried inwards from coarse to fine (push and pull over an image pyramid).
    """
    weight = known.astype(np.float32)
    if not weight.any():
        return np.zeros_like(difference)
    colour = cv2.GaussianBlur(difference * weight[..., None], (0, 0), _RING_BLUR)
    soft = cv2.GaussianBlur(weight, (0, 0), _RING_BLUR)
    return _pulled(colour * weight[..., None], soft * weight)


def _pulled(colour: Colour, weight: Colour) -> Colour:
    """Weighted colours (H, W, 3) spread to where their weight (H, W) is small."""
    height, width = weight.shape
    if min(height, width) > 2:
        half = ((width + 1) // 2, (height + 1) // 2)
        coarse = _pulled(_shrunk(colour, half), _shrunk(weight, half))
        below = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    else:
        below = np.broadcast_to(colour.sum((0, 1)) / max(float(weight.sum()), 1e-6), colour.shape).astype(np.float32)
    return np.asarray(colour + (1 - np.minimum(weight, 1))[..., None] * below, np.float32)


def _shrunk(array: Colour, size: tuple[int, int]) -> Colour:
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA), np.float32)
