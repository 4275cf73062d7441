"""Continue values smoothly from known pixels into unknown ones."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from vace_batch.geometry import Box, Bridging, Size

Values = npt.NDArray[Any]

# In larger gaps a thin plate would change only the rim. Bounds time (a second a gap) and memory (100 MB).
_MAX_GAP_PX = 40_000
# Width of the rim that is hidden beside a gap to test whether its surroundings predict it.
_RIM_PX = 6
# Weight of a membrane, which flattens, against a thin plate, which overshoots.
_TENSION = 0.3

# The rows and columns of pixels and of their right, then lower, neighbours.
_ADJACENT = (
    ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
)


def spread_inwards(values: Values, known: npt.NDArray[np.bool_ | np.float32]) -> Values:
    """Keep `values` (H, W, C) where `known`, and continue them smoothly elsewhere.

    `known` is (H, W), bool or weights 0..1. A pyramid: each level holds the known mean of four pixels of the finer
    level.
    """
    weight = known.astype(np.float32)
    return _push_pull(values.astype(np.float32) * weight[..., None], weight)


def _push_pull(total: Values, weight: Values) -> Values:
    """Compute a value at every pixel from weighted sums and their weights."""
    height, width = weight.shape
    mean = total / np.maximum(weight, 1e-6)[..., None]
    if (weight >= 1).all() or max(height, width) <= 1:
        return mean
    small = ((width + 1) // 2, (height + 1) // 2)
    padded = [cv2.copyMakeBorder(each, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT) for each in (total, weight)]
    sums = [cv2.resize(each, small, interpolation=cv2.INTER_AREA) * 4 for each in padded]
    # Weights are capped at one pixel's worth, so that coarse levels spread values, not counts.
    coarse_weight = np.minimum(sums[1], 1.0)
    factor = coarse_weight / np.maximum(sums[1], 1e-6)
    coarse = _push_pull(sums[0].reshape(*sums[1].shape, -1) * factor[..., None], coarse_weight)
    grown = cv2.resize(coarse, (small[0] * 2, small[1] * 2), interpolation=cv2.INTER_LINEAR)[:height, :width]
    grown = grown.reshape(height, width, -1)
    sure = np.minimum(weight, 1.0)[..., None]
    return np.asarray(sure * mean + (1 - sure) * grown, np.float32)


def stretch_across(values: Values, known: npt.NDArray[np.bool_]) -> Values:
    """Keep `values` (H, W, C) where `known` (H, W), and stretch a thin plate under tension across the gaps.

    Edges that end on both sides of a narrow gap meet across it; averages of averages would blur them.
    """
    filled = spread_inwards(values, known)
    parts, _ = ndimage.label(~known)
    gap = ~known & (np.bincount(parts.ravel())[parts] <= _MAX_GAP_PX)
    if not gap.any() or not known.any():
        return filled
    near = ndimage.binary_dilation(gap, iterations=2)
    number = np.full(gap.shape, -1, np.int64)
    number[near] = np.arange(near.sum())
    pairs = [
        np.stack([number[here], number[there]])[:, (number[here] >= 0) & (number[there] >= 0)]
        for here, there in _ADJACENT
    ]
    row, column = np.concatenate(pairs, axis=1)
    one_way = sparse.coo_array((np.ones(len(row)), (row, column)), shape=(near.sum(), near.sum()))
    slopes = (one_way + one_way.T).tocsr()
    slopes -= sparse.diags_array(slopes.sum(axis=1))
    inside = gap[near]
    forces = (_TENSION * slopes - slopes @ slopes)[inside]
    fixed = filled[near] * ~inside[:, None]
    filled[gap] = spsolve(forces[:, inside].tocsc(), -(forces @ fixed)).reshape(-1, values.shape[2])
    return filled


def bridge(rgb: Values, known: npt.NDArray[np.bool_], bridging: Bridging) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Stretch `rgb` (H, W, 3; levels) across its gaps; also return the gaps (H, W) for which that is good enough."""
    filled = stretch_across(rgb, known)
    narrow = _narrow_parts(~known, bridging.px)
    return filled, narrow | _plain_parts(filled, known, ~known & ~narrow, bridging.levels)


def _narrow_parts(gap: npt.NDArray[np.bool_], width_px: int) -> npt.NDArray[np.bool_]:
    """Return the parts of a gap into which no disc of `width_px` fits, such as a wire's trace.

    The plate's edge is not a side.
    """
    gap = np.pad(gap, width_px + 1, constant_values=True)
    core = cv2.distanceTransform(gap.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > width_px / 2 + 0.5
    beyond = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Corners of a wide gap lie farther from its core; they belong to it.
    narrow = gap & (beyond > width_px / 2 * math.sqrt(2) + 1)
    inner = slice(width_px + 1, -width_px - 1)
    return np.asarray(narrow, np.bool_)[inner, inner]


def _plain_parts(
    rgb: Values, known: npt.NDArray[np.bool_], gap: npt.NDArray[np.bool_], levels: float
) -> npt.NDArray[np.bool_]:
    """Return the parts of a gap that their surroundings predict well, such as a logo before a clear sky.

    Tested on pixels that are known: hide a rim round the part as well, and compare the rim's prediction with its
    pixels.
    """
    plain = np.zeros_like(gap)
    labels, count = ndimage.label(gap)
    for number, part in enumerate(ndimage.find_objects(labels, count), start=1):
        height = part[0].stop - part[0].start
        width = part[1].stop - part[1].start
        reach = 2 * _RIM_PX
        box = Box(part[1].start, part[0].start, width, height).pad(reach).clip(Size(gap.shape[1], gap.shape[0]))
        if box is None or height * width > _MAX_GAP_PX:
            continue
        here = box.slices
        hidden = cv2.dilate((labels[here] == number).astype(np.uint8), np.ones((2 * _RIM_PX + 1,) * 2, np.uint8)) > 0
        rim = hidden & known[here]
        off = np.abs(stretch_across(rgb[here], known[here] & ~hidden) - rgb[here])[rim]
        if rim.any() and np.sqrt(np.mean(off**2)) <= levels:
            plain |= labels == number
    return plain
