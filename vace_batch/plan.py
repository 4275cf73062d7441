"""Where the work is: shots, regions and windows of one clip. Pure functions; no I/O, no arrays.

Frames count from 0 in the order they are shown; ranges are half-open; boxes are in display pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vace_batch.geometry import TOKEN_PX, Box, Size, align_down, align_up, legal_num_frames, token_count, union_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model can take in one window."""

    max_tokens: int
    max_frames: int
    overlap_frames: int
    min_side: int

    def __post_init__(self) -> None:
        if self.max_frames != legal_num_frames(self.max_frames):
            raise ValueError(f"max_frames: expected 4n+1, got {self.max_frames}")
        if not 0 <= self.overlap_frames < self.max_frames:
            raise ValueError(f"overlap_frames: expected 0..{self.max_frames - 1}, got {self.overlap_frames}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """Frames start..stop-1 between two cuts."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Masked frames start..stop-1 of one shot, the constant box cut out of them, the `size` the model sees it at."""

    shot: int
    start: int
    stop: int
    box: Box
    size: Size

    @property
    def scale(self) -> float:
        """Model pixels a source pixel, the smaller of both axes."""
        return min(self.size.width / self.box.width, self.size.height / self.box.height)

    @property
    def token_px(self) -> int:
        """Source pixels that make one token's side at model scale."""
        return math.ceil(TOKEN_PX / self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames start..stop-1 of a region; the model sees `num_frames` = 4n+1, the last one held where frames lack."""

    region: int
    start: int
    stop: int
    num_frames: int


def shots_of(num_frames: int, cuts: Sequence[int]) -> tuple[Shot, ...]:
    """Shots of a clip from the first frames of its later shots.

    Raises:
        ValueError: a cut lies outside 1..num_frames-1.
    """
    bad = [cut for cut in cuts if not 0 < cut < num_frames]
    if bad:
        raise ValueError(f"cuts: expected 1..{num_frames - 1}, got {bad}")
    edges = [0, *sorted(set(cuts)), num_frames]
    return tuple(Shot(start=a, stop=b) for a, b in zip(edges, edges[1:], strict=False))


def masked_runs(frames: Sequence[int], shot: Shot, max_gap: int) -> tuple[tuple[int, int], ...]:
    """Stretches of a shot that hold masks; stretches less than `max_gap` + 1 frames apart are one."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frame for frame in frames if shot.start <= frame < shot.stop):
        if runs and frame - runs[-1][1] <= max_gap:
            runs[-1] = (runs[-1][0], frame + 1)
        else:
            runs.append((frame, frame + 1))
    return tuple(runs)


def plan_regions(boxes: Mapping[int, Box], shots: Sequence[Shot], frame: Size, limits: Limits) -> tuple[Region, ...]:
    """One region for each masked run of each shot. `boxes` holds the bounding box of every frame's mask."""
    regions = []
    ordered = sorted(boxes)
    for number, shot in enumerate(shots):
        for start, stop in masked_runs(ordered, shot, limits.overlap_frames):
            union = union_of(boxes[index] for index in range(start, stop) if index in boxes)
            assert union is not None
            box, size = crop(union, frame, min(legal_num_frames(stop - start), limits.max_frames), limits)
            regions.append(Region(shot=number, start=start, stop=stop, box=box, size=size))
    return tuple(regions)


def crop(union: Box, frame: Size, num_frames: int, limits: Limits) -> tuple[Box, Size]:
    """The box to cut out round `union`, with context, and the size the model sees it at.

    At native resolution where the token budget and the frame allow: then box and size are equal.
    """
    margin = max(2 * TOKEN_PX, max(union.width, union.height) // 4)
    x, width = _crop_side(union.x, union.width, margin, frame.width, limits.min_side)
    y, height = _crop_side(union.y, union.height, margin, frame.height, limits.min_side)
    size = Size(_nearest(width), _nearest(height))
    return Box(x, y, width, height), _within_budget(size, num_frames, limits.max_tokens)


def _crop_side(start: int, length: int, margin: int, frame: int, min_side: int) -> tuple[int, int]:
    """Start and length of one side of the crop: a multiple of 16 inside the frame, or the whole frame."""
    wanted = align_up(max(length + 2 * margin, min_side), TOKEN_PX)
    if wanted > frame:
        whole = align_down(frame, TOKEN_PX)
        wanted = whole if length <= whole - 2 * TOKEN_PX else frame
    centred = start + length // 2 - wanted // 2
    return max(0, min(centred, frame - wanted)), wanted


def _nearest(side: int) -> int:
    return max(TOKEN_PX, (side + TOKEN_PX // 2) // TOKEN_PX * TOKEN_PX)


def _within_budget(size: Size, num_frames: int, max_tokens: int) -> Size:
    tokens = token_count(num_frames, size)
    if tokens <= max_tokens:
        return size
    scale = math.sqrt(max_tokens / tokens)
    return Size(*(max(TOKEN_PX, align_down(int(side * scale), TOKEN_PX)) for side in (size.width, size.height)))


def plan_windows(regions: Sequence[Region], shots: Sequence[Shot], limits: Limits) -> tuple[Window, ...]:
    """Windows that cover every region, evenly spread, overlapping, never across a cut."""
    windows = []
    for number, region in enumerate(regions):
        for start, stop in _spread(region.start, region.stop, limits):
            windows.append(_legal_window(number, start, stop, shots[region.shot]))
    return tuple(windows)


def _spread(start: int, stop: int, limits: Limits) -> list[tuple[int, int]]:
    length, longest = stop - start, limits.max_frames
    if length <= longest:
        return [(start, stop)]
    count = math.ceil((length - limits.overlap_frames) / (longest - limits.overlap_frames))
    starts = [start + k * (length - longest) // (count - 1) for k in range(count)]
    return [(s, s + longest) for s in starts]


def _legal_window(region: int, start: int, stop: int, shot: Shot) -> Window:
    """Grow a window to 4n+1 frames with real frames of its shot; what the shot lacks is left to held frames."""
    num_frames = legal_num_frames(stop - start)
    stop = min(shot.stop, start + num_frames)
    start = max(shot.start, stop - num_frames)
    return Window(region=region, start=start, stop=stop, num_frames=num_frames)


def fade_weights(index: int, windows: Sequence[Window]) -> list[float]:
    """Weights, adding up to 1, of the windows that hold frame `index`: by distance to the window's nearer end."""
    raw = [min(index - window.start + 1, window.stop - index) for window in windows]
    if any(weight < 1 for weight in raw):
        raise ValueError(f"frame {index} lies outside one of {list(windows)}")
    return [weight / sum(raw) for weight in raw]
