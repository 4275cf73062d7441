"""Per masked frame: the pixels under its mask that other frames of the shot show, in this frame's place and colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.camera import Pose, ReadFrames, ReadMasks, Segment, track_camera, with_masks
from vace_batch.background.fill import spread_inwards
from vace_batch.background.plate import Levels, Plate, frame_levels, is_deep, make_plate, shift
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.plan import Shot
from vace_batch.video.frame import Frame

_RING_PX = 12
# The ring's differences are averaged over this radius before they colour the hole: what is left is light, not noise.
_LIGHT_RADIUS_PX = 6
_MAX_LIGHT_STEP = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundSettings:
    """`margin_px`: how far round the masks the background is gathered, at least the ring that colours are matched to."""

    margin_px: int = _RING_PX + 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """What is known of the background under frame `index`'s mask.

    `rgb` (h, w, 3) over `box`, the mask's box: uint8, or uint16 of 0..65535 for sources above 8 bits. `known` (h, w) is
    a subset of the mask's bits; where it is not set, `rgb` is a smooth guess and says nothing.
    """

    index: int
    box: Box
    rgb: npt.NDArray[Any]
    known: Bits


def recover(
    read: ReadFrames,
    masks: ReadMasks,
    shot: Shot,
    size: Size,
    settings: BackgroundSettings | None = None,
    camera: Sequence[Segment] | None = None,
) -> Iterator[Recovered]:
    """What other frames of `shot` show under each masked frame's mask, in frame order, one for every masked frame.

    `read(start, stop)` streams frames; it is called once for the whole shot to find the camera's way (unless `camera` is
    given), then twice for each segment of it. `masks(start, stop)` gives the non-empty masks, already dilated. Memory
    depends on the frame's size, not on the shot's length.
    """
    settings = settings or BackgroundSettings()
    segments = track_camera(read, masks, shot, size) if camera is None else camera
    for number, segment in enumerate(segments):
        plate = make_plate(read, masks, segments, number, size, settings.margin_px)
        if plate is None:
            continue
        poses = {pose.index: pose for pose in segment.poses}
        for frame, mask in with_masks(read, masks, segment.start, segment.stop):
            if mask is not None:
                yield _recovered(frame, mask, poses[frame.index], plate)


def _recovered(frame: Frame, mask: FrameMask, pose: Pose, plate: Plate) -> Recovered:
    box = mask.box.pad(_RING_PX).clip(frame.size)
    assert box is not None
    view = view_plate(plate, pose, box)
    observed = frame_levels(frame, box)
    bits = mask.within(box)
    rgb = view.rgb + _light(observed, view, bits, plate.noise)
    inner = mask.box.shift(-box.x, -box.y).slices
    return Recovered(
        index=frame.index,
        box=mask.box,
        rgb=to_samples(rgb[inner], deep=is_deep(frame)),
        known=(view.known & bits)[inner],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateView:
    """A plate as one frame would show it: `rgb` (h, w, 3) levels in the frame's colours, `known` (h, w)."""

    rgb: Levels
    known: Bits


def view_plate(plate: Plate, pose: Pose, box: Box) -> PlateView:
    """The plate seen through `box` of the frame of `pose`; colours follow the whole frame's gain and offset."""
    to_plate = shift(-plate.box.x, -plate.box.y) @ pose.to_anchor @ shift(box.x, box.y)
    size = (box.width, box.height)
    if np.array_equal(pose.to_anchor, np.eye(3)):
        rgb, known = np.zeros((box.height, box.width, 3), np.float32), np.zeros((box.height, box.width), np.bool_)
        common = box.intersect(plate.box)
        if common is not None:
            there, here = (common.shift(-each.x, -each.y).slices for each in (plate.box, box))
            rgb[here], known[here] = plate.rgb[there], plate.known[there]
    else:
        flags = cv2.WARP_INVERSE_MAP
        rgb = cv2.warpPerspective(
            plate.rgb, to_plate, size, flags=cv2.INTER_LANCZOS4 | flags, borderMode=cv2.BORDER_REPLICATE
        )
        known = (
            cv2.warpPerspective(plate.known.astype(np.float32), to_plate, size, flags=cv2.INTER_LINEAR | flags) > 0.99
        )
    levels = (rgb - pose.offset) / pose.gain
    return PlateView(rgb=levels.astype(np.float32), known=np.asarray(known, np.bool_))


def _light(observed: Levels, view: PlateView, bits: Bits, noise: float) -> Levels:
    """What to add to the plate so that it meets the ring round the mask without a step, (h, w, 3) levels.

    Only small, smooth differences are light; large ones are things that move there, shadows or parallax.
    """
    difference = observed - view.rgb
    limit = max(_MAX_LIGHT_STEP, 4 * noise)
    usable = view.known & ~bits & (np.abs(difference).max(axis=-1) <= limit)
    weight = usable.astype(np.float32)
    radius = (2 * _LIGHT_RADIUS_PX + 1,) * 2
    total = cv2.GaussianBlur(difference * weight[..., None], radius, 0)
    share = cv2.GaussianBlur(weight, radius, 0)
    # 0.05: where next to nothing of the ring can be used, nothing is added.
    smooth = total / (share + 0.05)[..., None]
    return spread_inwards(smooth, usable) if usable.any() else np.zeros_like(observed)


def to_samples(levels: Levels, *, deep: bool) -> npt.NDArray[Any]:
    """Levels of 0..255 as uint8, or uint16 of 0..65535 for deep sources."""
    if deep:
        return np.rint(np.clip(levels, 0, 255) * 257).astype(np.uint16)
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
