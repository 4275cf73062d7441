"""The background of one segment, gathered from the frames that see it: what most of them agree on, in anchor pixels.

Memory is bounded: at most `_MAX_SAMPLES` frames are held, cut to the part of the picture that masks ever cover, and fewer
where that part is large. Suffixes: N samples, H, W rows and columns of the plate, 3 RGB in levels of 0..255 (float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.camera import (
    Matrix,
    Pose,
    ReadFrames,
    ReadMasks,
    Segment,
    box_of,
    corners,
    project,
    with_masks,
)
from vace_batch.background.fill import spread_inwards
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.video.frame import Frame

Levels = npt.NDArray[np.float32]

_MAX_SAMPLES = 32
_MIN_SAMPLES = 8
_SAMPLE_BYTES = 192 << 20
# Candidates beyond the segment on either side: a followed object hides what only frames before or after it show.
_REACH_FRAMES = 240
_MAX_CANDIDATES = 240
_CELLS_LONG_SIDE = 96
_TILE_ROWS = 64

_MIN_AGREEING = 2
_MIN_AGREEING_SHARE = 0.55
_LEAST_TOLERANCE = 6.0
_TOLERANCE_NOISES = 5.0
# Levels allowed for each level of local contrast: what a misalignment of about a fifth of a pixel makes of an edge.
_TOLERANCE_CONTRAST = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """Recovered background: `rgb` (H, W, 3) and `known` (H, W) over `box`, in pixels of the segment's anchor frame.

    `noise` is how far, in levels, a frame's pixel is typically from the plate.
    """

    box: Box
    rgb: Levels
    known: Bits
    noise: float


def make_plate(
    read: ReadFrames, masks: ReadMasks, segments: Sequence[Segment], number: int, size: Size, margin_px: int
) -> Plate | None:
    """The plate of segment `number` with `margin_px` round what its masks cover; None when it has no mask.

    Reads the segment and up to 240 frames before and after it once.
    """
    box = _covered_box(masks, segments[number], size, margin_px)
    if box is None:
        return None
    reachable = reachable_poses(segments, number)
    wanted = choose_samples(masks, reachable, box, size)
    samples = _gather(read, masks, reachable, wanted, box)
    return _agree(samples, box)


def _covered_box(masks: ReadMasks, segment: Segment, size: Size, margin_px: int) -> Box | None:
    """What the segment's masks cover in anchor pixels; a box for each mask's own box, so a little generous."""
    boxes = [
        box_of(project(pose.to_anchor, _box_corners(mask.box)))
        for pose, mask in masks_of(masks, segment.poses)
        if mask is not None
    ]
    if not boxes:
        return None
    x, y = min(box.x for box in boxes), min(box.y for box in boxes)
    covered = Box(x, y, max(box.right for box in boxes) - x, max(box.bottom for box in boxes) - y).pad(margin_px)
    frames = box_of(np.concatenate([project(pose.to_anchor, corners(size)) for pose in segment.poses]))
    return covered.intersect(frames)


def masks_of(masks: ReadMasks, poses: Sequence[Pose]) -> Iterator[tuple[Pose, FrameMask | None]]:
    """Each pose with its frame's mask; masks are read a chunk of frames at a time."""
    for first in range(0, len(poses), 64):
        part = poses[first : first + 64]
        held = masks(part[0].index, part[-1].index + 1)
        for pose in part:
            yield pose, held.get(pose.index)


def _box_corners(box: Box) -> npt.NDArray[np.float32]:
    return corners(box.size) + np.array([box.x, box.y], np.float32)


def reachable_poses(segments: Sequence[Segment], number: int) -> list[Pose]:
    """Poses of a segment and of frames near it, all against the segment's anchor, in rising order."""
    segment = segments[number]
    poses = list(segment.poses)
    link, colour = segment.to_previous, segment.colour_to_previous
    if number > 0 and link is not None and colour is not None:
        back = np.linalg.inv(link)
        inverse = (1 / colour[0], -colour[1] / colour[0])
        poses[:0] = [_chained(pose, back, inverse) for pose in segments[number - 1].poses[-_REACH_FRAMES:]]
    if number + 1 < len(segments):
        link, colour = segments[number + 1].to_previous, segments[number + 1].colour_to_previous
        if link is not None and colour is not None:
            poses += [_chained(pose, link, colour) for pose in segments[number + 1].poses[:_REACH_FRAMES]]
    return poses


def _chained(pose: Pose, link: Matrix, colour: tuple[Levels, Levels]) -> Pose:
    gain, offset = colour
    return replace(pose, to_anchor=link @ pose.to_anchor, gain=gain * pose.gain, offset=gain * pose.offset + offset)


def choose_samples(masks: ReadMasks, poses: Sequence[Pose], box: Box, size: Size) -> set[int]:
    """Indices of the frames to gather: spread over time, then those that show most of what few others show."""
    limit = int(np.clip(_SAMPLE_BYTES // (box.width * box.height * 3), _MIN_SAMPLES, _MAX_SAMPLES))
    if len(poses) <= limit:
        return {pose.index for pose in poses}
    step = np.linspace(0, len(poses) - 1, min(len(poses), _MAX_CANDIDATES)).round().astype(int)
    candidates = [poses[k] for k in step]
    seen_NC = np.stack([_cells_seen(pose, mask, box, size) for pose, mask in masks_of(masks, candidates)])
    chosen = list(np.linspace(0, len(candidates) - 1, limit // 2).round().astype(int))
    counts_C = seen_NC[chosen].sum(axis=0)
    while len(chosen) < limit:
        gains = seen_NC @ (1.0 / (1.0 + counts_C) ** 2)
        gains[chosen] = -1
        best = int(gains.argmax())
        chosen.append(best)
        counts_C = counts_C + seen_NC[best]
    return {candidates[k].index for k in chosen}


def _cells_seen(pose: Pose, mask: FrameMask | None, box: Box, size: Size) -> npt.NDArray[np.float32]:
    """Which cells of a coarse grid over the plate this frame shows; flat, 1 or 0."""
    scale = min(1.0, _CELLS_LONG_SIDE / max(box.width, box.height))
    columns, rows = max(1, round(box.width * scale)), max(1, round(box.height * scale))
    x, y = np.meshgrid((np.arange(columns) + 0.5) / scale + box.x - 0.5, (np.arange(rows) + 0.5) / scale + box.y - 0.5)
    there = project(np.linalg.inv(pose.to_anchor), np.stack([x, y], axis=-1).reshape(-1, 2))
    column, row = np.rint(there).astype(np.int64).T
    seen = (column >= 1) & (row >= 1) & (column < size.width - 1) & (row < size.height - 1)
    if mask is not None:
        column, row = column - mask.box.x, row - mask.box.y
        near = seen & (column >= 0) & (row >= 0) & (column < mask.box.width) & (row < mask.box.height)
        seen[near] &= ~mask.bits[row[near], column[near]]
    return seen.astype(np.float32)


@dataclass(slots=True, kw_only=True)
class _Samples:
    rgb_NHW3: list[npt.NDArray[np.uint16]]
    seen_NHW: list[Bits]


def _gather(read: ReadFrames, masks: ReadMasks, poses: Sequence[Pose], wanted: set[int], box: Box) -> _Samples:
    """The wanted frames laid into the plate, in 1/256 levels, and where each shows the background."""
    samples = _Samples(rgb_NHW3=[], seen_NHW=[])
    by_index = {pose.index: pose for pose in poses}
    for frame, mask in with_masks(read, masks, min(wanted), max(wanted) + 1):
        if frame.index in wanted:
            rgb, seen = _laid(frame, mask, by_index[frame.index], box)
            if seen.any():
                samples.rgb_NHW3.append(rgb)
                samples.seen_NHW.append(seen)
    return samples


def _laid(frame: Frame, mask: FrameMask | None, pose: Pose, box: Box) -> tuple[npt.NDArray[np.uint16], Bits]:
    to_plate = shift(-box.x, -box.y) @ pose.to_anchor
    still = np.array_equal(pose.to_anchor, np.eye(3))
    source = box.clip(frame.size) if still else _source_box(to_plate, box, frame.size)
    if source is None:
        return np.zeros((box.height, box.width, 3), np.uint16), np.zeros((box.height, box.width), np.bool_)
    free = np.ones((source.height, source.width), np.bool_) if mask is None else ~mask.within(source)
    rgb = frame_levels(frame, source)
    if still:
        laid = np.zeros((box.height, box.width, 3), np.float32)
        seen = np.zeros((box.height, box.width), np.bool_)
        place = source.shift(-box.x, -box.y).slices
        laid[place], seen[place] = rgb, free
    else:
        matrix = to_plate @ shift(source.x, source.y)
        laid = cv2.warpPerspective(
            rgb, matrix, (box.width, box.height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
        )
        # Lanczos reaches three pixels out; its outer lobes are small, and two keep the object's colours out.
        safe = cv2.erode(
            free.astype(np.uint8), np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1
        )
        inside = cv2.warpPerspective(safe.astype(np.float32), matrix, (box.width, box.height), flags=cv2.INTER_LINEAR)
        seen = inside > 0.99
    matched = np.clip(laid * pose.gain + pose.offset, 0, 255)
    return (matched * 256 + 0.5).astype(np.uint16), np.asarray(seen, np.bool_)


def _source_box(to_plate: Matrix, box: Box, size: Size) -> Box | None:
    """The part of a frame that the plate can show, with what interpolation reads beside it."""
    there = project(np.linalg.inv(to_plate), corners(box.size))
    return box_of(there).pad(6).clip(size) if np.isfinite(there).all() and np.abs(there).max() < 1e6 else None


def frame_levels(frame: Frame, box: Box) -> Levels:
    """Pixels of a frame in levels of 0..255, float32; sources above 8 bits keep their fractions."""
    return frame.rgb16(box).astype(np.float32) / 257 if is_deep(frame) else frame.rgb(box).astype(np.float32)


def is_deep(frame: Frame) -> bool:
    """Whether the source has more than 8 bits a sample."""
    return max(component.bits for component in frame.native.format.components) > 8


def shift(x: float, y: float) -> Matrix:
    """Moves points by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _agree(samples: _Samples, box: Box) -> Plate:
    """What most of the frames that show a pixel agree on; where they do not, the pixel stays unknown."""
    rgb = np.zeros((box.height, box.width, 3), np.float32)
    seen_HW, agreeing_HW = (np.zeros((box.height, box.width), np.float32) for _ in range(2))
    if not samples.rgb_NHW3:
        return Plate(box=box, rgb=rgb, known=np.zeros((box.height, box.width), np.bool_), noise=1.0)
    middle_HW3, off = rgb.copy(), np.full((box.height, box.width), np.nan, np.float32)
    for top in range(0, box.height, _TILE_ROWS):
        rows = slice(top, min(box.height, top + _TILE_ROWS))
        stack, seen = _tile(samples, rows)
        middle_HW3[rows] = _median(stack, seen)
        seen_HW[rows] = seen.sum(axis=0)
        distance = np.where(seen, np.abs(stack - middle_HW3[rows]).max(axis=-1), np.nan)
        several = seen_HW[rows] >= 3
        off[rows][several] = np.nanmedian(distance[:, several], axis=0) if several.any() else 0
    noise = float(np.nanmedian(off)) if np.isfinite(off).any() else 1.0
    contrast = _contrast(spread_inwards(middle_HW3, seen_HW > 0))
    tolerance = np.maximum(_LEAST_TOLERANCE, _TOLERANCE_NOISES * noise) + _TOLERANCE_CONTRAST * contrast
    for top in range(0, box.height, _TILE_ROWS):
        rows = slice(top, min(box.height, top + _TILE_ROWS))
        stack, seen = _tile(samples, rows)
        near = seen & (np.abs(stack - middle_HW3[rows]).max(axis=-1) <= tolerance[rows])
        agreeing_HW[rows] = near.sum(axis=0)
        total = np.einsum("nhwc,nhw->hwc", stack, near.astype(np.float32))
        rgb[rows] = np.where(
            near.any(axis=0)[..., None], total / np.maximum(agreeing_HW[rows], 1)[..., None], middle_HW3[rows]
        )
    known = _settled(seen_HW, agreeing_HW)
    return Plate(box=box, rgb=spread_inwards(rgb, known), known=known, noise=max(noise, 0.5))


def _tile(samples: _Samples, rows: slice) -> tuple[Levels, Bits]:
    stack = np.stack([rgb[rows] for rgb in samples.rgb_NHW3]).astype(np.float32) / 256
    return stack, np.stack([seen[rows] for seen in samples.seen_NHW])


def _median(stack_NHW3: Levels, seen_NHW: Bits) -> Levels:
    """Median over the samples that show a pixel, by channel; 0 where none does."""
    ordered = np.sort(np.where(seen_NHW[..., None], stack_NHW3, np.float32(1e6)), axis=0)
    count = seen_NHW.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.maximum(count // 2, 0)
    high = np.minimum(high, len(ordered) - 1)
    pick = [np.take_along_axis(ordered, k[None, ..., None].repeat(3, axis=-1), axis=0)[0] for k in (low, high)]
    return np.where(count[..., None] > 0, (pick[0] + pick[1]) / 2, 0).astype(np.float32)


def _contrast(rgb: Levels) -> Levels:
    """How much the picture changes within a pixel or two, (H, W) levels."""
    gray = rgb.mean(axis=-1)
    square = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(gray, square) - cv2.erode(gray, square), np.float32)


def _settled(seen_HW: Levels, agreeing_HW: Levels) -> Bits:
    """Pixels that enough frames agree on, judged with their neighbours: single pixels are neither lost nor trusted."""
    agreed = (agreeing_HW >= _MIN_AGREEING) & (agreeing_HW >= _MIN_AGREEING_SHARE * seen_HW)
    share = cv2.blur(agreed.astype(np.float32), (5, 5)) / np.maximum(
        cv2.blur((seen_HW > 0).astype(np.float32), (5, 5)), 1e-6
    )
    return np.asarray((share > 0.6) & (agreeing_HW >= _MIN_AGREEING), np.bool_)
