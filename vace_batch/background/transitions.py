"""Interpolate hidden pixels in time between the moments before and after, for changing scenes such as a dissolve.

Suffixes: H, W rows and columns of the plate, 3 RGB levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits

UNITS = 128
"""Steps per level in 16 bits: levels above white occur where a darker frame is the colour reference."""
BRIGHTEST = 511.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """Frame `index` laid into a plate: `rgb_HW3` in 1/128 levels, and the pixels where it shows the background."""

    index: int
    rgb_HW3: npt.NDArray[np.uint16]
    seen_HW: Bits


def between(moments: Sequence[Moment], index: int, region: Box, ring_px: int) -> tuple[npt.NDArray[Any], Bits]:
    """Interpolate `region` (in pixels of the moments) at frame `index`: levels (h, w, 3), and known (h, w).

    Each pixel is interpolated linearly in time between the nearest moments before and after that show it. Pixels within
    `ring_px` of a mask count as hidden by it: so the ring round the mask is as old as the pixels under the mask, and a
    ring that fits the frame vouches for them.
    """
    earlier = [moment for moment in reversed(moments) if moment.index < index]
    later = [moment for moment in moments if moment.index > index]
    before, since = _nearest(earlier, index, region, ring_px)
    after, till = _nearest(later, index, region, ring_px)
    seen_before = np.isfinite(since)
    seen_after = np.isfinite(till)
    both = seen_before & seen_after
    share = np.where(both, since / np.where(both, since + till, 1), np.where(seen_before, 0, 1)).astype(np.float32)
    return before * (1 - share[..., None]) + after * share[..., None], seen_before | seen_after


def _nearest(
    moments: Sequence[Moment], index: int, region: Box, ring_px: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return each pixel's levels in the first of `moments` that shows it, and the distance to that moment in frames."""
    rgb = np.zeros((region.height, region.width, 3), np.float32)
    away = np.full((region.height, region.width), np.inf, np.float32)
    fat = np.ones((2 * ring_px + 1, 2 * ring_px + 1), np.uint8)
    for moment in moments:
        missing = np.isinf(away)
        if not missing.any():
            break
        height, width = moment.seen_HW.shape
        around = region.pad(ring_px).clip(Size(width, height))
        assert around is not None
        seen = cv2.erode(moment.seen_HW[around.slices].astype(np.uint8), fat)
        new = missing & (seen[region.slices_in(around)] > 0)
        rgb[new] = moment.rgb_HW3[region.slices][new] / np.float32(UNITS)
        away[new] = abs(moment.index - index)
    return rgb, away
