"""Grow masks into the soft shadows of their objects: compare each frame with the recovered background round its mask.

In a shadow the ground is smoothly darker than its background and keeps its colour and texture, and the shadow touches
the mask. Any other difference (a second object, a change of light over the whole picture) is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from vace_batch.background.camera import track_camera
from vace_batch.background.plate import MaskedFrames, Plate, frame_levels, largest, make_plates, smooth_difference
from vace_batch.background.poses import Pose, ReadFrames, ReadMasks, Segment, masks_of, with_masks
from vace_batch.background.recover import view_plate
from vace_batch.background.routes import Levels
from vace_batch.geometry import Size
from vace_batch.masks.store import Bits, FrameMask, make_mask
from vace_batch.planning.windows import Shot
from vace_batch.video.frame import Frame

# The search for shadows reaches this share of the object's longer side from the mask, within these pixels.
_REACH_SHARE = 1.0
_LEAST_REACH_PX = 24
_MAX_REACH_PX = 320

_SURE_DARKENING = 0.05
_FAINT_DARKENING = 0.02
_DARKEST = 0.2
_FAINT_NOISES = 0.6
_COLOUR_SHIFT = 0.1
_TEXTURE_LEVELS = 5.0
_ATTACHED_PX = 5
# Misaligned edges look like small shadows.
_LEAST_SHARE = 0.01
_SURE_SHARE = 0.1
_EDGE_PX = 3
_PINHOLE_PX = 7
# A shadow many times its object's size is a change of light.
_MAX_GROWTH = 2.0


def grow_into_shadows(
    read: ReadFrames, masks: ReadMasks, shot: Shot, size: Size, camera: Sequence[Segment] | None = None
) -> Iterator[FrameMask]:
    """Yield the masks of `shot`, each grown into the shadow attached to it where the ground shows one.

    `camera` may be the result of `track_camera` for the same masks; it stays right for the grown ones.
    """
    segments = track_camera(read, masks, shot, size) if camera is None else camera
    source = MaskedFrames(read=read, masks=masks, size=size)
    for number, segment in enumerate(segments):
        sides = [max(mask.box.width, mask.box.height) for _, mask in masks_of(masks, segment.poses) if mask is not None]
        if not sides:
            continue
        reach = int(np.clip(_REACH_SHARE * max(sides), _LEAST_REACH_PX, _MAX_REACH_PX))
        plates = make_plates(source, segments, number, reach, None)
        poses = {pose.index: pose for pose in segment.poses}
        for frame, mask in with_masks(read, masks, segment.start, segment.stop):
            if mask is not None:
                yield _grown(frame, mask, poses[frame.index], plates[-1], reach)


def _grown(frame: Frame, mask: FrameMask, pose: Pose, plate: Plate, reach: int) -> FrameMask:
    box = mask.box.pad(reach).clip(frame.size)
    assert box is not None
    view = view_plate(plate, pose, box)
    bits = mask.within(box)
    shadow = shadow_of(frame_levels(frame, box), view.rgb, view.known, bits, plate.noise)
    grown = make_mask(mask.index, bits | shadow, (box.x, box.y))
    return mask if grown is None else grown


def shadow_of(observed: Levels, background: Levels, known: Bits, mask: Bits, noise: float) -> Bits:
    """Return the pixels of (h, w, 3) levels in a shadow attached to `mask` (h, w), up to its soft edge."""
    seen = known & ~mask
    bright_now = _brightness(observed, seen)
    bright_then = _brightness(background, seen)
    ratio = bright_now / bright_then
    shaded = background * ratio[..., None]
    like_ground = largest(np.abs(smooth_difference(observed - shaded, seen))) <= np.maximum(
        _TEXTURE_LEVELS + noise, _COLOUR_SHIFT * bright_then
    )
    ground = seen & like_ground & (ratio > _DARKEST)
    faint = ground & (ratio < 1 - np.maximum(_FAINT_DARKENING, _FAINT_NOISES * noise / bright_then))
    sure = ground & (ratio < 1 - np.maximum(_SURE_DARKENING, 2 * _FAINT_NOISES * noise / bright_then))
    faint = np.asarray(cv2.morphologyEx(faint.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)), np.bool_)
    shadow = _attached(faint, sure, mask)
    if shadow.sum() > _MAX_GROWTH * mask.sum():
        return np.zeros_like(mask)
    whole = (_dilated(shadow, _EDGE_PX) | mask).astype(np.uint8)
    closed = cv2.morphologyEx(whole, cv2.MORPH_CLOSE, np.ones((_PINHOLE_PX, _PINHOLE_PX), np.uint8))
    return np.asarray(closed, np.bool_) & ~mask & _dilated(shadow, _EDGE_PX + _PINHOLE_PX)


def _brightness(levels: Levels, seen: Bits) -> Levels:
    """Average the channels over the seen pixels near each pixel; at least 4 levels."""
    gray = np.asarray(levels, np.float32) @ np.full(3, 1 / 3, np.float32)
    weight = seen.astype(np.float32)
    total = cv2.GaussianBlur(gray * weight, (0, 0), 2.0)
    share = cv2.GaussianBlur(weight, (0, 0), 2.0)
    return np.maximum(total / np.maximum(share, 1e-3), 4.0)


def _attached(faint: Bits, sure: Bits, mask: Bits) -> Bits:
    """Keep the parts of `faint` that touch the mask, are large enough to be seen, and largely sure."""
    count, labels = cv2.connectedComponents(faint.astype(np.uint8), connectivity=8)
    area = np.bincount(labels[faint], minlength=count)
    certain = np.bincount(labels[sure & faint], minlength=count)
    touching = np.bincount(labels[_dilated(mask, _ATTACHED_PX) & faint], minlength=count) > 0
    large = (area >= _LEAST_SHARE * mask.sum()) & (certain >= _SURE_SHARE * area)
    return np.asarray((touching & large)[labels] & faint, np.bool_)


def _dilated(bits: Bits, px: int) -> Bits:
    square = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1))
    return np.asarray(cv2.dilate(bits.astype(np.uint8), square), np.bool_)
