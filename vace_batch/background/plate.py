"""Gather the background of one segment: the pixels that most of the frames showing them agree on.

Plates are in pixels of the segment's anchor. Memory is bounded: at most 32 frames are held, cut to the part of the
picture that masks ever cover, and fewer where that part is large. Suffixes: N samples, H, W rows and columns of the
plate, 3 RGB levels, 0..255 float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.fill import bridge, spread_inwards
from vace_batch.background.motion import project
from vace_batch.background.parallax import fine_shifts, look_up
from vace_batch.background.poses import ReadFrames, ReadMasks, Segment, box_of, corners, masks_of, with_masks
from vace_batch.background.routes import MIN_SAMPLES, Levels, Route, choose_samples, reachable_frames
from vace_batch.background.transitions import BRIGHTEST, UNITS, Moment, between
from vace_batch.geometry import Box, Bridging, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.video.frame import Frame

# OpenCV's type stubs lack some of its functions and forbid arguments that it takes.
_cv: Any = cv2

_TILE_ROWS = 64

_MIN_AGREEING = 2
_MIN_AGREEING_SHARE = 0.55
# If this share of a scene is still, a pixel that only one frame shows is accepted.
_CALM_SHARE = 0.95
_LEAST_TOLERANCE = 5.0
_LEAST_NOISE = 0.5
# Tolerance per level of local contrast: the average effect of a misalignment of a fifth of a pixel on an edge.
_TOLERANCE_CONTRAST = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """Recovered background: `rgb` (H, W, 3) and `known` (H, W) over `box`, in pixels of the segment's anchor frame.

    `bridged` (H, W): pixels that no frame shows and that `rgb` predicts well enough from their sides. `noise` is the
    typical difference, in levels, between a frame's pixel and the plate. `moments` are the gathered frames, in rising
    order, over `box`.
    """

    box: Box
    rgb: Levels
    known: Bits
    noise: float
    bridged: Bits | None = None
    moments: tuple[Moment, ...] = ()

    def near(self, index: int, region: Box, ring_px: int) -> Plate | None:
        """Return the plate of `region` (anchor pixels) as seen just before and after frame `index`; see `between`."""
        part = region.intersect(self.box)
        if part is None or not self.moments:
            return None
        rgb, known = between(self.moments, index, part.shift(-self.box.x, -self.box.y), ring_px)
        return Plate(box=part, rgb=rgb, known=known, noise=self.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFrames:
    """Readers of a shot's frames, of `size` px, and of their masks."""

    read: ReadFrames
    masks: ReadMasks
    size: Size


def make_plates(
    source: MaskedFrames, segments: Sequence[Segment], number: int, margin_px: int, bridging: Bridging | None
) -> tuple[Plate, ...]:
    """Make the plates of segment `number`, with `margin_px` round its masks; an empty tuple if it has no mask.

    The first plate takes the scene as flat, and is better aligned where it knows a pixel. If the scene is not flat, a
    second plate bends every frame by its mesh. The last plate marks the gaps that may be bridged. Reads the segment,
    and up to 240 frames before and after it, once.
    """
    box = _covered_box(source, segments[number], margin_px)
    if box is None:
        return ()
    routes = choose_samples(source.masks, reachable_frames(segments, number), box, source.size)
    is_bent = any(pose.back is not None for pose in segments[number].poses)
    gathered = _gather(source, routes, box, (False, True) if is_bent else (False,))
    if is_bent:
        _straighten(gathered[True], box)
    return tuple(_agree(samples, box, bridging if bent == is_bent else None) for bent, samples in gathered.items())


def _covered_box(source: MaskedFrames, segment: Segment, margin_px: int) -> Box | None:
    """Return the box of anchor pixels that the segment's masks cover; generous, as it maps boxes of masks."""
    boxes = [
        box_of(project(pose.to_anchor, _box_corners(mask.box)))
        for pose, mask in masks_of(source.masks, segment.poses)
        if mask is not None
    ]
    if not boxes:
        return None
    x, y = min(box.x for box in boxes), min(box.y for box in boxes)
    covered = Box(x, y, max(box.right for box in boxes) - x, max(box.bottom for box in boxes) - y).pad(margin_px)
    frames = box_of(np.concatenate([project(pose.to_anchor, corners(source.size)) for pose in segment.poses]))
    return covered.intersect(frames)


def _box_corners(box: Box) -> npt.NDArray[Any]:
    return corners(box.size) + np.array([box.x, box.y], np.float32)


@dataclass(slots=True, kw_only=True)
class _Samples:
    """Frames laid into the plate, in 1/128 levels, with the pixels where each shows the background."""

    indices: list[int]
    rgb_NHW3: list[npt.NDArray[np.uint16]]
    seen_NHW: list[Bits]

    def add(self, index: int, rgb: npt.NDArray[np.uint16], seen: Bits) -> None:
        if seen.any():
            self.indices.append(index)
            self.rgb_NHW3.append(rgb)
            self.seen_NHW.append(seen)

    def moments(self) -> tuple[Moment, ...]:
        parts = zip(self.indices, self.rgb_NHW3, self.seen_NHW, strict=True)
        return tuple(Moment(index=index, rgb_HW3=rgb, seen_HW=seen) for index, rgb, seen in parts)


def _gather(source: MaskedFrames, routes: Iterable[Route], box: Box, ways: Sequence[bool]) -> dict[bool, _Samples]:
    """Lay the frames of `routes` into the plate `box`, in one reading, flat (False) or bent by their meshes (True)."""
    wanted = {route.pose.index: route for route in routes}
    gathered = {bent: _Samples(indices=[], rgb_NHW3=[], seen_NHW=[]) for bent in ways}
    for frame, mask in with_masks(source.read, source.masks, min(wanted), max(wanted) + 1):
        if frame.index in wanted:
            route = wanted[frame.index]
            for bent, samples in gathered.items():
                samples.add(frame.index, *_laid(frame, mask, route if bent else route.flat(), box))
    return gathered


def _straighten(samples: _Samples, box: Box) -> None:
    """Align bent samples to their median: a mesh of points is off by parts of a pixel."""
    middle, seen_HW = _middle(samples, box)
    for number, (rgb, seen) in enumerate(zip(samples.rgb_NHW3, samples.seen_NHW, strict=True)):
        levels = rgb.astype(np.float32) / UNITS
        map_xy = pixel_grid(Box(0, 0, box.width, box.height)) + fine_shifts(middle, levels, seen & (seen_HW >= 3))
        moved = np.clip(sample(levels, map_xy), 0, BRIGHTEST)
        samples.rgb_NHW3[number] = (moved * UNITS + 0.5).astype(np.uint16)
        samples.seen_NHW[number] = is_inside(seen, map_xy)


def pixel_grid(box: Box) -> Levels:
    """Return the place of each pixel of `box`: (h, w, 2) float32, x and y."""
    x, y = np.meshgrid(np.arange(box.x, box.right, dtype=np.float32), np.arange(box.y, box.bottom, dtype=np.float32))
    return np.stack([x, y], axis=-1)


def _laid(frame: Frame, mask: FrameMask | None, route: Route, box: Box) -> tuple[npt.NDArray[np.uint16], Bits]:
    """Lay a frame into the plate's place and colours: 1/128 levels, and the pixels where it shows the background."""
    laid = np.zeros((box.height, box.width, 3), np.float32)
    seen = np.zeros((box.height, box.width), np.bool_)
    map_xy = None if route.is_still else route.in_frame(pixel_grid(box))
    source = box if map_xy is None else _spanned(map_xy)
    source = None if source is None else source.clip(frame.size)
    if source is None:
        return laid.astype(np.uint16), seen
    free = np.ones((source.height, source.width), np.bool_) if mask is None else ~mask.within(source)
    rgb = frame_levels(frame, source)
    if map_xy is None:
        place = source.slices_in(box)
        laid[place], seen[place] = rgb, free
    else:
        map_xy = map_xy - np.array([source.x, source.y], np.float32)
        laid = sample(rgb, map_xy)
        # Lanczos reaches three pixels out; its outer lobes are small, and two keep the object's colours out.
        safe = ~np.asarray(cv2.dilate((~free).astype(np.uint8), np.ones((5, 5), np.uint8)), np.bool_)
        seen = is_inside(safe, map_xy)
    gain, offset = route.colours()
    matched = np.clip(laid * gain + offset, 0, BRIGHTEST)
    return (matched * UNITS + 0.5).astype(np.uint16), seen


def _spanned(map_xy: Levels) -> Box | None:
    """Return the part of a frame that a map reads, with the margin of interpolation."""
    points = map_xy.reshape(-1, 2)
    return box_of(points).pad(6) if np.isfinite(points).all() and np.abs(points).max() < 1e6 else None


def sample(rgb: Levels, map_xy: Levels) -> Levels:
    """Interpolate (H, W, 3) levels at (h, w, 2) places, sharp between pixels."""
    return look_up(rgb, map_xy, cv2.INTER_LANCZOS4)


def is_inside(bits: Bits, map_xy: Levels) -> Bits:
    """Return which of (h, w, 2) places lie between pixels of `bits` (H, W) that are all set."""
    inner = np.pad(bits, 1).astype(np.float32)
    return np.asarray(look_up(inner, map_xy + np.float32(1), cv2.INTER_LINEAR) > 0.99, np.bool_)


def frame_levels(frame: Frame, box: Box) -> Levels:
    """Return pixels of a frame as levels of 0..255, float32; sources above 8 bits keep their fractions."""
    return frame.rgb16(box).astype(np.float32) / 257 if is_deep(frame) else frame.rgb(box).astype(np.float32)


def is_deep(frame: Frame) -> bool:
    """Return whether the source has more than 8 bits a sample."""
    return frame.bit_depth > 8


def _agree(samples: _Samples, box: Box, bridging: Bridging | None) -> Plate:
    """Make a plate of the pixels on which most frames agree; where they do not agree, the pixel stays unknown.

    Agreement is judged on differences averaged over a few pixels: averaging removes grain and coding noise, but neither
    waves nor passers-by.
    """
    empty = np.zeros((box.height, box.width), np.float32)
    if not samples.rgb_NHW3:
        nothing = np.zeros((box.height, box.width, 3), np.float32)
        return Plate(box=box, rgb=nothing, known=empty > 0, noise=_LEAST_NOISE)
    middle_HW3, seen_HW = _middle(samples, box)
    contrast = contrast_of(spread_inwards(middle_HW3, seen_HW > 0))
    tolerance = _LEAST_TOLERANCE + _TOLERANCE_CONTRAST * contrast
    total: Levels = np.zeros((box.height, box.width, 3), np.float32)
    agreeing = empty
    noises: list[float] = []
    for rgb_HW3, seen in zip(samples.rgb_NHW3, samples.seen_NHW, strict=True):
        off = rgb_HW3.astype(np.float32) / UNITS - middle_HW3
        near = seen & (largest(np.abs(smooth_difference(off, seen))) <= tolerance)
        if near.any():
            noises.append(float(np.median(np.abs(off[near]))))
        # A single far pixel, which smoothing hides, does not count either.
        close = near & (largest(np.abs(off)) <= 4 * tolerance)
        total += off * close[..., None]
        agreeing += close
    known = _trusted(seen_HW, agreeing)
    rgb = middle_HW3 + total / np.maximum(agreeing, 1)[..., None]
    noise = max(float(np.median(noises)) if noises else _LEAST_NOISE, _LEAST_NOISE)
    if bridging is None:
        return Plate(box=box, rgb=spread_inwards(rgb, known), known=known, noise=noise)
    filled, bridged = bridge(rgb, known, bridging)
    return Plate(box=box, rgb=filled, known=known, noise=noise, bridged=bridged, moments=samples.moments())


def largest(values: Levels) -> Levels:
    """Return the largest of three channels; ten times as fast as `max` over so short an axis."""
    return np.asarray(np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2]))


def smooth_difference(difference: Levels, seen: Bits) -> Levels:
    """Average (H, W, 3) differences over the seen pixels within two pixels."""
    total = cv2.blur(difference * seen[..., None], (5, 5))
    return np.asarray(total / np.maximum(cv2.blur(seen.astype(np.float32), (5, 5)), 1e-6)[..., None], np.float32)


def _middle(samples: _Samples, box: Box) -> tuple[Levels, Levels]:
    """Return the median over the frames that show a pixel, and their number; in strips, to bound memory."""
    middle = np.zeros((box.height, box.width, 3), np.float32)
    seen_HW = np.zeros((box.height, box.width), np.float32)
    for top in range(0, box.height, _TILE_ROWS):
        rows = slice(top, min(box.height, top + _TILE_ROWS))
        stack, seen = _tile(samples, rows)
        middle[rows] = _median(stack, seen)
        seen_HW[rows] = seen.sum(axis=0)
    return middle, seen_HW


def _tile(samples: _Samples, rows: slice) -> tuple[npt.NDArray[np.uint16], Bits]:
    return np.stack([rgb[rows] for rgb in samples.rgb_NHW3]), np.stack([seen[rows] for seen in samples.seen_NHW])


def _median(stack_NHW3: npt.NDArray[np.uint16], seen_NHW: Bits) -> Levels:
    """Return the median per channel, in levels, over the samples that show a pixel; 0 without a sample."""
    ordered = np.sort(np.where(seen_NHW[..., None], stack_NHW3, np.uint16(0xFFFF)), axis=0)
    count = seen_NHW.sum(axis=0)
    low = np.maximum((count - 1) // 2, 0)
    high = np.minimum(count // 2, len(ordered) - 1)
    pick = [np.take_along_axis(ordered, k[None, ..., None], axis=0)[0].astype(np.float32) for k in (low, high)]
    return np.where(count[..., None] > 0, (pick[0] + pick[1]) / (2 * UNITS), 0).astype(np.float32)


def contrast_of(rgb: Levels) -> Levels:
    """Return the change of the picture within a pixel or two, (H, W) levels."""
    gray = rgb @ np.full(3, 1 / 3, np.float32)
    square = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(gray, square) - cv2.erode(gray, square), np.float32)


def _trusted(seen_HW: Levels, agreeing_HW: Levels) -> Bits:
    """Return the pixels on which enough frames agree, judged with their neighbours.

    Single pixels are neither lost nor trusted.
    """
    often = seen_HW >= MIN_SAMPLES // 2
    agreed = (agreeing_HW >= _MIN_AGREEING_SHARE * seen_HW) & (agreeing_HW > 0)
    calm = often.any() and agreed[often].mean() >= _CALM_SHARE
    least = 1 if calm else _MIN_AGREEING
    agreed &= agreeing_HW >= least
    share = cv2.blur(agreed.astype(np.float32), (5, 5)) / np.maximum(
        cv2.blur((seen_HW > 0).astype(np.float32), (5, 5)), 1e-6
    )
    return np.asarray((share > 0.6) & (agreeing_HW >= least), np.bool_)
