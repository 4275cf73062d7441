"""Relate the colours of one frame to another's by a gain and an offset per channel. Levels of 0..255, float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.float32]

SAME_COLOURS: tuple[Levels, Levels] = np.ones(3, np.float32), np.zeros(3, np.float32)

# A frame with this many times the contrast at the same place becomes the colour reference.
_BRIGHTER = 1.5
_CLIPPED = 250
# Variance, in squared levels, below which a picture is too flat to fit a gain.
_FLAT = 4.0
_MAX_GAIN = 50.0
# Pictures that are correlated less than this differ by more than light.
_ALIKE = 0.9


def is_brighter(colours: Levels, gain: Levels, offset: Levels) -> bool:
    """Return whether a frame with this gain and offset to `colours` (H, W, 3) has more contrast, hardly clipped."""
    return bool(np.median(gain) < 1 / _BRIGHTER and np.percentile((colours - offset) / gain, 98) <= 255)


def match_colours(source: npt.NDArray[np.generic], target: npt.NDArray[np.generic]) -> tuple[Levels, Levels]:
    """Fit gain and offset per channel, (3,) each: gain * source + offset is near `target`. Both are (N, 3), 0..255.

    Outliers and clipped pixels do not count. The gain stays near 1 where source and target are flat or unlike each
    other; where only one is flat, such as a frame that has faded out, the gain is up to 50.
    """
    # By channel: reductions over a short last axis are many times slower.
    a = np.ascontiguousarray(source.T, np.float32)
    b = np.ascontiguousarray(target.T, np.float32)
    unclipped = (np.minimum(a, b).min(axis=0) > 4) & (np.maximum(a, b).max(axis=0) < _CLIPPED)
    if unclipped.sum() >= 64:
        a, b = a[:, unclipped], b[:, unclipped]
    gain = np.ones((3, 1), np.float32)
    offset = np.median(b - a, axis=1, keepdims=True)
    for _ in range(4):
        off = np.abs(b - (gain * a + offset)).max(axis=0)
        near = (off <= max(1.0, 2.5 * float(np.median(off)))).astype(np.float32)
        near /= near.sum()
        mean_a, mean_b = (a @ near)[:, None], (b @ near)[:, None]
        gain = _slope(a - mean_a, b - mean_b, near)[:, None]
        offset = mean_b - gain * mean_a
    return gain[:, 0], np.asarray(offset[:, 0], np.float32)


def _slope(a: Levels, b: Levels, weight: Levels) -> Levels:
    """Return the slope of b (3, N) over a, both of mean 0, per channel; a faded a is fitted from b to a."""
    var_a, var_b = a**2 @ weight, b**2 @ weight
    common = np.maximum((a * b) @ weight, 0)
    faded = 4 * (var_a + _FLAT) < var_b + _FLAT
    slope = np.where(faded, (var_b + _FLAT) / (common + _FLAT), (common + _FLAT) / (var_a + _FLAT))
    unlike = (common < _ALIKE * np.sqrt(var_a * var_b)) & (np.minimum(var_a, var_b) > 3 * _FLAT)
    return np.asarray(np.clip(np.where(unlike, 1, slope), 1 / _MAX_GAIN, _MAX_GAIN), np.float32)
