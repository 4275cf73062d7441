"""Recover the pixels under each frame's mask from other frames of the shot, in that frame's place and colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.camera import track_camera
from vace_batch.background.fill import spread_inwards
from vace_batch.background.parallax import fine_shifts
from vace_batch.background.plate import (
    MaskedFrames,
    Plate,
    contrast_of,
    frame_levels,
    is_deep,
    is_inside,
    largest,
    make_plates,
    pixel_grid,
    sample,
    smooth_difference,
)
from vace_batch.background.poses import Pose, ReadFrames, ReadMasks, Segment, box_of, with_masks
from vace_batch.background.routes import Levels
from vace_batch.geometry import Box, Bridging, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.planning.windows import Shot
from vace_batch.video.frame import Frame

_RING_PX = 12
# The ring's differences are averaged over this radius before they colour the hole, which leaves light and no noise.
_LIGHT_RADIUS_PX = 6
_HALO_PX = 3
_MAX_LIGHT_STEP = 12.0
_LIGHT_DOUBT = 0.5
_RING_TOLERANCE = 10.0
_STRICT_TOLERANCE = 6.0
_TOLERANCE_CONTRAST = 0.12
_LIT = 0.95
_STILL_LEVELS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundSettings:
    """The margin of background round the masks, the gaps to bridge, and the halo of the masks.

    `margin_px`: the margin round the masks, at least the ring that colours are matched to. `bridging`: the gaps, shown
    by no frame, that are bridged from their sides. `halo_px`: how far a codec's faint traces of the masked object reach
    beyond the mask.
    """

    margin_px: int = _RING_PX + 4
    bridging: Bridging = Bridging()
    halo_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """The recovered background under frame `index`'s mask.

    `rgb` (h, w, 3) over `box`, which is the mask's box and its halo: uint8, or uint16 of 0..65535 for sources above 8
    bits. `known` (h, w) lies in the mask, and in its halo where only faint traces differ from the background; elsewhere
    `rgb` is a smooth guess. `still` (h, w): the pixels of the mask that lie in a picture that stands still.
    """

    index: int
    box: Box
    rgb: npt.NDArray[Any]
    known: Bits
    still: Bits


def recover(
    read: ReadFrames,
    masks: ReadMasks,
    shot: Shot,
    size: Size,
    settings: BackgroundSettings | None = None,
    camera: Sequence[Segment] | None = None,
) -> Iterator[Recovered]:
    """Recover the background of every masked frame of `shot`, in frame order.

    `read(start, stop)` streams frames; it is called once for the whole shot to track the camera (unless `camera` is
    given), then twice for each segment. `masks(start, stop)` gives the non-empty masks, already dilated. Memory depends
    on the frame's size; it grows with the shot only by a matrix a frame.
    """
    settings = settings or BackgroundSettings()
    segments = track_camera(read, masks, shot, size) if camera is None else camera
    source = MaskedFrames(read=read, masks=masks, size=size)
    for number, segment in enumerate(segments):
        plates = make_plates(source, segments, number, settings.margin_px, settings.bridging)
        if not plates:
            continue
        poses = {pose.index: pose for pose in segment.poses}
        for frame, mask in with_masks(read, masks, segment.start, segment.stop):
            if mask is not None:
                yield _recovered(frame, mask, poses[frame.index], plates, settings.halo_px)


def _recovered(frame: Frame, mask: FrameMask, pose: Pose, plates: Sequence[Plate], halo_px: int) -> Recovered:
    box = mask.box.pad(_RING_PX).clip(frame.size)
    inside = mask.box.pad(halo_px).clip(frame.size)
    assert box is not None and inside is not None
    observed = frame_levels(frame, box)
    bits = mask.within(box)
    rgb, known = _matched(observed, bits, pose.flat(), plates[0], box)
    for plate, strict in _other_plates(plates, pose, box):
        if known[bits].all():
            break
        more_rgb, more = _matched(observed, bits, pose, plate, box, strict=strict)
        rgb = np.where((more & ~known)[..., None], more_rgb, rgb)
        known = known | more
    if halo_px:
        known = known | _traces(observed, bits, view_plate(plates[0], pose.flat(), box).known, rgb, halo_px)
    inner = inside.slices_in(box)
    return Recovered(
        index=frame.index,
        box=inside,
        rgb=to_samples(rgb[inner], deep=is_deep(frame)),
        known=known[inner],
        still=_still(observed, bits, pose, plates[0], box)[inner],
    )


def _traces(observed: Levels, bits: Bits, known: Bits, rgb: Levels, halo_px: int) -> Bits:
    """Return the pixels of the hole's halo that differ from the background as little as a codec's traces do."""
    halo = np.asarray(cv2.dilate(bits.astype(np.uint8), np.ones((2 * halo_px + 1,) * 2, np.uint8)), np.bool_) & ~bits
    off = largest(np.abs(smooth_difference(observed - rgb, known & ~bits)))
    return np.asarray(halo & known & (off <= _STRICT_TOLERANCE), np.bool_)


def _still(observed: Levels, bits: Bits, pose: Pose, plate: Plate, box: Box) -> Bits:
    """Return the pixels of the hole that lie in a still picture: the ring beside them looks as always."""
    if not pose.is_still:
        return np.zeros_like(bits)
    view = view_plate(plate, pose, box)
    near = np.asarray(cv2.dilate(bits.astype(np.uint8), np.ones((_HALO_PX * 2 + 1,) * 2, np.uint8)), np.bool_)
    ring = view.known & ~near
    off = largest(np.abs(smooth_difference(observed - view.rgb, ring)))
    moves = ~view.known | (off > _STILL_LEVELS + 2 * plate.noise + _TOLERANCE_CONTRAST * contrast_of(view.rgb))
    return np.asarray(bits & (spread_inwards(moves[..., None].astype(np.float32), ~near)[..., 0] < 0.3), np.bool_)


def _other_plates(plates: Sequence[Plate], pose: Pose, box: Box) -> Iterator[tuple[Plate, bool]]:
    """Fallback plates for pixels unknown to the first, best first, each with whether it must match strictly."""
    for plate in plates[1:]:
        yield plate, False
    last = plates[-1]
    near = last.near(pose.index, box_of(pose.in_anchor(pixel_grid(box)).reshape(-1, 2)).pad(4), _RING_PX)
    if near is not None:
        yield near, True
    if last.bridged is not None and last.bridged.any():
        yield replace(last, known=last.known | last.bridged), False


def _matched(
    observed: Levels, bits: Bits, pose: Pose, plate: Plate, box: Box, *, strict: bool = False
) -> tuple[Levels, Bits]:
    """Return the plate in a frame's place and light, and its trusted pixels under the mask."""
    view = view_plate(plate, pose, box)
    if pose.there is not None:
        map_xy = pixel_grid(Box(0, 0, box.width, box.height)) + fine_shifts(observed, view.rgb, view.known & ~bits)
        view = PlateView(rgb=sample(view.rgb, map_xy), known=is_inside(view.known, map_xy))
    rgb = view.rgb + _light(observed, view, bits, plate.noise)
    return rgb, view.known & bits & ~_doubtful(observed, view, bits, strict=strict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateView:
    """A plate as one frame would show it: `rgb` (h, w, 3) levels in the frame's colours, `known` (h, w)."""

    rgb: Levels
    known: Bits


def view_plate(plate: Plate, pose: Pose, box: Box) -> PlateView:
    """Return the plate as `box` of the frame of `pose` shows it; colours follow the whole frame's gain and offset."""
    if pose.is_still:
        rgb = np.zeros((box.height, box.width, 3), np.float32)
        known = np.zeros((box.height, box.width), np.bool_)
        common = box.intersect(plate.box)
        if common is not None:
            there = common.slices_in(plate.box)
            here = common.slices_in(box)
            rgb[here] = plate.rgb[there]
            known[here] = plate.known[there]
    else:
        map_xy = pose.in_anchor(pixel_grid(box)) - np.array([plate.box.x, plate.box.y], np.float32)
        rgb, known = sample(plate.rgb, map_xy), is_inside(plate.known, map_xy)
    levels = (rgb - pose.offset) / pose.gain
    return PlateView(rgb=levels.astype(np.float32), known=np.asarray(known, np.bool_))


def _light(observed: Levels, view: PlateView, bits: Bits, noise: float) -> Levels:
    """Return the levels (h, w, 3) to add to the plate so that it meets the ring round the mask without a step.

    Only small, smooth differences are light; large ones are moving things, shadows or parallax.
    """
    difference = observed - view.rgb
    limit = max(_MAX_LIGHT_STEP, 4 * noise)
    # Codecs and soft edges carry a little of the object beyond its mask.
    near = np.asarray(cv2.dilate(bits.astype(np.uint8), np.ones((_HALO_PX * 2 + 1,) * 2, np.uint8)), np.bool_)
    usable = view.known & ~near & (largest(np.abs(difference)) <= limit)
    weight = usable.astype(np.float32)
    radius = (2 * _LIGHT_RADIUS_PX + 1,) * 2
    total = cv2.GaussianBlur(difference * weight[..., None], radius, 0)
    share = cv2.GaussianBlur(weight, radius, 0)
    # 0.05: where hardly a pixel of the ring can be used, nothing is added.
    smooth = total / (share + 0.05)[..., None]
    if not usable.any():
        return np.zeros_like(observed)
    light = spread_inwards(smooth, usable)
    # Differences within the noise are damped, so that they do not flicker from frame to frame.
    doubt = (_LIGHT_DOUBT * noise) ** 2
    return np.asarray(light * np.maximum(0, 1 - doubt / np.maximum(light**2, 1e-6)), np.float32)


def _doubtful(observed: Levels, view: PlateView, bits: Bits, *, strict: bool) -> Bits:
    """Return the pixels of the hole beside a ring that does not look like the plate.

    Someone passes there, or the plate is misaligned. A smooth darkening of a lesser part of the ring does not count: it
    is a shadow on the right background. `strict`: scenes that change all the time must fit better, at edges too.
    """
    # Without the pinholes of a mask, which show the object itself.
    outside = cv2.morphologyEx((~bits).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    ring = view.known & np.asarray(outside, np.bool_)
    if not ring.any():
        return np.zeros_like(bits)
    shade = shading(observed, view.rgb, ring)
    if np.median(shade[ring]) < _LIT:
        shade = np.ones_like(shade)
    shaded = view.rgb * shade[..., None]
    off = largest(np.abs(smooth_difference(observed - shaded, ring)))
    tolerance = _RING_TOLERANCE + 2 * _TOLERANCE_CONTRAST * contrast_of(view.rgb)
    bad = (off > (_STRICT_TOLERANCE if strict else tolerance)) & ring
    return np.asarray(bits & (spread_inwards(bad[..., None].astype(np.float32), ring)[..., 0] > 0.5), np.bool_)


def shading(observed: Levels, background: Levels, seen: Bits) -> Levels:
    """Return the brightness of each pixel's surroundings relative to the background, (H, W), 0.3 to 1."""
    bright = [cv2.blur(each @ np.full(3, 1 / 3, np.float32) * seen, (9, 9)) for each in (observed, background)]
    return np.asarray(np.clip((bright[0] + 1) / (bright[1] + 1), 0.3, 1.0), np.float32)


def to_samples(levels: Levels, *, deep: bool) -> npt.NDArray[Any]:
    """Convert levels of 0..255 to uint8, or to uint16 of 0..65535 for deep sources."""
    if deep:
        return np.asarray(np.rint(np.clip(levels, 0, 255) * 257), np.uint16)
    return np.asarray(np.rint(np.clip(levels, 0, 255)), np.uint8)
