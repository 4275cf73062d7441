"""Paste generated frames back: cross-faded, matched in colour to the ring round the mask, feathered.

Shapes: THWC frames uint8 RGB; HW alpha float32 in 0..1. Outside the feathered mask no sample of a frame is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vace_batch.background.patches import Patch
from vace_batch.geometry import Box
from vace_batch.masks.refine import at_least_token, feather_alpha
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.stitch.colour import Colour, drift, grain
from vace_batch.stitch.regions import RegionPatches, share_out
from vace_batch.video.frame import Frame
from vace_batch.video.scaling import Image

MEETING_PX = 16
"""Width of the ring round the mask whose colours the fill must meet."""

_CHROMA_PX = 3
"""Reach of chroma: a pixel's chroma depends on pixels as near as this, through averaging and interpolation."""


def stitch_frame(
    frame: Frame,
    recovered: Patch | None,
    hole: FrameMask | None,
    patches: Sequence[RegionPatches],
    feather_px: int,
    protected: FrameMask | None = None,
) -> None:
    """Paste the recovered pixels into a frame, then the generated ones into the hole, region by region.

    Recovered pixels already match their surroundings and are pasted unchanged. No sample that shows a part of
    `protected` is written.
    """
    if recovered is not None:
        alpha = recovered.known.astype(np.float32)
        frame.paste(recovered.box, recovered.rgb, alpha, _kept(protected, recovered.box))
    if hole is None:
        return
    pasted = []
    for number, mine in share_out(hole, patches).items():
        reach = patches[number].reach(hole.index)
        assert reach is not None
        grown = at_least_token(mine, frame.size, patches[number].region.token_px)
        box = grown.box.pad(max(feather_px, _CHROMA_PX)).intersect(reach)
        ring = grown.box.pad(MEETING_PX).intersect(reach)
        assert box is not None and ring is not None, "a region's windows hold its masks"
        around = box.union(ring)
        fill = patches[number].at(hole.index, around).copy()  # a still picture is shown more than once
        known = _known(recovered, around)
        source = _seen(frame, recovered, around)
        changed = hole.within(around) | (grown.within(around) & ~known)
        fill += drift(source.astype(np.float32), fill, ~changed)
        change = patches[number].change(hole.index, around, source)
        fill += grain(source.astype(np.float32), fill, changed, change, seed=hole.index)
        inner = box.slices_in(around)
        # Recovered pixels stay: the token that grew over them is not shown.
        alpha_mine = feather_alpha(mine.within(box), feather_px)
        alpha = np.where(known[inner], alpha_mine, feather_alpha(grown.within(box), feather_px))
        # A chroma sample shared by two pastes would keep some of the object under both: one paste covers it alone.
        beside = known[inner] & (feather_alpha(mine.within(box), _CHROMA_PX) > 0)
        weight = np.where(beside, alpha, np.float32(1))[..., None]
        mixed = weight * fill[inner] + (1 - weight) * source[inner]
        pasted.append((box, to_uint8(np.asarray(mixed, np.float32)), np.where(beside, np.float32(1), alpha)))
    for box, pixels, alpha in pasted:  # after all were anchored to the source
        frame.paste(box, pixels, alpha, _kept(protected, box))


def _seen(frame: Frame, recovered: Patch | None, box: Box) -> Image:
    """Return `box` of a frame with the recovered pixels in it, exact in chroma too."""
    seen = frame.rgb(box)
    common = recovered.box.intersect(box) if recovered is not None else None
    if recovered is not None and common is not None:
        there = common.slices_in(recovered.box)
        here = common.slices_in(box)
        seen[here] = np.where(recovered.known[there][..., None], recovered.rgb8[there], seen[here])
    return seen


def _known(recovered: Patch | None, box: Box) -> Bits:
    """Return which pixels of `box` were recovered, (h, w)."""
    known = np.zeros((box.height, box.width), np.bool_)
    common = recovered.box.intersect(box) if recovered is not None else None
    if recovered is not None and common is not None:
        there = common.slices_in(recovered.box)
        here = common.slices_in(box)
        known[here] = recovered.known[there]
    return known


def _kept(protected: FrameMask | None, box: Box) -> Bits | None:
    return None if protected is None else protected.within(box)


def to_uint8(image: Colour) -> Image:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
