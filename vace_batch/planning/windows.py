"""Plan where the model works: the shots, regions and windows of one clip.

Pure functions without I/O or arrays. Frames count from 0 in display order, ranges are half-open, boxes are in display
pixels.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import product

from vace_batch.geometry import (
    TOKEN_PX,
    Box,
    Bridging,
    Size,
    align_down,
    align_up,
    legal_num_frames,
    token_count,
    union_of,
)

_CELL_PX = 2 * TOKEN_PX
"""Parts that are about this near share their context, and so a region."""

_WORTH_FOLLOWING = 1.25
"""A crop follows its object when a constant one would be larger by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """The limits of one window of a model, and the gaps between masks that recovering may bridge.

    `widest_hole_px` is the widest hole, at model scale, that the model paints well in a still picture, where the
    window's other frames do not help; None if no such limit is known.
    """

    max_tokens: int
    max_frames: int
    overlap_frames: int
    min_side: int
    bridging: Bridging = Bridging()
    widest_hole_px: int | None = None

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
    """Objects near each other in frames start..stop-1 of one shot.

    All windows of a region are cut out of the picture at `crop` pixels and shown to the model at `size`.
    """

    shot: int
    start: int
    stop: int
    crop: Size
    size: Size

    @property
    def token_px(self) -> int:
        """The side of one model token in source pixels."""
        scale = min(self.size.width / self.crop.width, self.size.height / self.crop.height)
        return math.ceil(TOKEN_PX / scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames start..stop-1 of a region, cut out at `box`, which holds all masks of the region in these frames.

    The model sees `num_frames` = 4n+1; where the shot has fewer frames, the last frame is held.
    """

    region: int
    start: int
    stop: int
    num_frames: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class Track:
    """The masks of one region: in each masked frame the bounding box; `frames` rise."""

    frames: Sequence[int]
    boxes: Sequence[Box]

    @classmethod
    def of(cls, boxes: Mapping[int, Box]) -> Track:
        """Make a track from boxes by frame."""
        frames = sorted(boxes)
        return cls(frames=frames, boxes=[boxes[index] for index in frames])

    @property
    def start(self) -> int:
        return self.frames[0]

    @property
    def stop(self) -> int:
        return self.frames[-1] + 1

    @cached_property
    def margin(self) -> int:
        """The context round the masks in px: a quarter of the longer side of the largest mask."""
        return max(2 * TOKEN_PX, max(max(box.width, box.height) for box in self.boxes) // 4)

    @cached_property
    def whole(self) -> Box:
        """The smallest box that holds all masks."""
        box = union_of(self.boxes)
        assert box is not None
        return box

    def union(self, start: int, stop: int) -> Box | None:
        """Return the smallest box that holds the masks of frames start..stop-1, None without masks."""
        return union_of(self.boxes[bisect_left(self.frames, start) : bisect_left(self.frames, stop)])


def masked_runs(frames: Sequence[int], shot: Shot, max_gap: int) -> tuple[tuple[int, int], ...]:
    """Find the runs (start, stop) of masked frames in a shot; gaps of at most `max_gap` frames are bridged."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frame for frame in frames if shot.start <= frame < shot.stop):
        if runs and frame - runs[-1][1] <= max_gap:
            runs[-1] = (runs[-1][0], frame + 1)
        else:
            runs.append((frame, frame + 1))
    return tuple(runs)


def plan_clip(
    parts: Mapping[int, Sequence[Box]], shots: Sequence[Shot], frame: Size, limits: WindowLimits
) -> tuple[tuple[Region, ...], tuple[Window, ...]]:
    """Plan the regions and windows of a clip; `parts` are the boxes of each frame's connected mask parts.

    Parts that come near each other anywhere in a shot share a region. Other parts share one if that costs fewer tokens.
    """
    regions: list[Region] = []
    windows: list[Window] = []
    for number, shot in enumerate(shots):
        inside = {index: boxes for index, boxes in parts.items() if boxes and shot.start <= index < shot.stop}
        for track in tracks_of(inside, shot, frame, limits):
            region, cut = _plan_track(track, number, len(regions), shot, frame, limits)
            regions.append(region)
            windows += cut
    return tuple(regions), tuple(windows)


def tracks_of(parts: Mapping[int, Sequence[Box]], shot: Shot, frame: Size, limits: WindowLimits) -> list[Track]:
    """Group the mask parts of one shot into tracks, one per region, earliest first."""
    tracks = [
        run
        for boxes in _near_parts(parts)
        for run in _runs_of(Track.of(boxes), masked_runs(list(boxes), shot, limits.overlap_frames))
    ]
    tracks.sort(key=lambda track: (track.start, track.stop, astuple(track.boxes[0])))
    return _joined_where_cheaper(tracks, frame, limits)


def _near_parts(parts: Mapping[int, Sequence[Box]]) -> list[dict[int, Box]]:
    """Join parts whose boxes, grown by half a cell, touch a common cell of a coarse grid in any two frames."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(cell: tuple[int, int]) -> tuple[int, int]:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for left, top, right, bottom in {_cells(box) for boxes in parts.values() for box in boxes}:
        first = (left, top)
        for cell in product(range(left, right + 1), range(top, bottom + 1)):
            parent.setdefault(cell, cell)
            parent[root(cell)] = root(first)
    groups: dict[tuple[int, int], dict[int, Box]] = {}
    for index, boxes in parts.items():
        for box in boxes:
            group = groups.setdefault(root(_cells(box)[:2]), {})
            group[index] = group[index].union(box) if index in group else box
    return list(groups.values())


def _cells(box: Box) -> tuple[int, int, int, int]:
    """Return the first and last column and row of the grid cells that a box, grown by half a cell, touches."""
    grown = box.pad(_CELL_PX // 2)
    return grown.x // _CELL_PX, grown.y // _CELL_PX, (grown.right - 1) // _CELL_PX, (grown.bottom - 1) // _CELL_PX


def _runs_of(track: Track, runs: Sequence[tuple[int, int]]) -> Iterator[Track]:
    for start, stop in runs:
        part = slice(bisect_left(track.frames, start), bisect_left(track.frames, stop))
        yield Track(frames=track.frames[part], boxes=track.boxes[part])


def _joined_where_cheaper(tracks: list[Track], frame: Size, limits: WindowLimits) -> list[Track]:
    """Join pairs of tracks, earliest first, as long as that saves pixels; an hour of video may have thousands."""
    tracks = list(tracks)
    costs = [_cost(track, frame, limits) for track in tracks]
    at = 0
    while at < len(tracks):
        for other in range(at + 1, len(tracks)):
            if tracks[other].start >= tracks[at].stop + limits.overlap_frames:
                at += 1
                break
            joined = _joined(tracks[at], tracks[other])
            cost = _cost(joined, frame, limits)
            if cost <= costs[at] + costs[other]:
                tracks[at], costs[at] = joined, cost
                del tracks[other], costs[other]
                # An earlier track may be worth joining with the joined one.
                at = next(n for n, track in enumerate(tracks) if track.stop + limits.overlap_frames > joined.start)
                break
        else:
            at += 1
    return tracks


def _joined(one: Track, other: Track) -> Track:
    boxes = dict(zip(one.frames, one.boxes, strict=True))
    for index, box in zip(other.frames, other.boxes, strict=True):
        boxes[index] = boxes[index].union(box) if index in boxes else box
    return Track.of(boxes)


def _cost(track: Track, frame: Size, limits: WindowLimits) -> int:
    """Count the pixels that a track's windows show to the model."""
    crop = _crop_size([track.whole], track.margin, frame, limits)
    spans = spread(track.start, track.stop, limits)
    return sum(stop - start for start, stop in spans) * crop.width * crop.height


def _plan_track(
    track: Track, shot_number: int, region_number: int, shot: Shot, frame: Size, limits: WindowLimits
) -> tuple[Region, list[Window]]:
    """Plan one region and its windows.

    The windows' boxes are equal, or follow the object where that makes them much smaller.
    """
    spans = [_legal_span(start, stop, shot) for start, stop in spread(track.start, track.stop, limits)]
    whole = track.whole
    unions = [track.union(start, stop) or whole for start, stop, _ in spans]
    constant = _crop_size([whole], track.margin, frame, limits)
    crop = _crop_size(unions, track.margin, frame, limits)
    if crop.width * crop.height * _WORTH_FOLLOWING > constant.width * constant.height:
        crop = constant
        unions = [whole] * len(unions)
    longest = max(num_frames for *_, num_frames in spans)
    size = _within_budget(Size(_nearest(crop.width), _nearest(crop.height)), longest, limits.max_tokens)
    windows = [
        Window(region=region_number, start=start, stop=stop, num_frames=num_frames, box=_place(union, crop, frame))
        for (start, stop, num_frames), union in zip(spans, unions, strict=True)
    ]
    return Region(shot=shot_number, start=track.start, stop=track.stop, crop=crop, size=size), windows


def _crop_size(boxes: Sequence[Box], margin: int, frame: Size, limits: WindowLimits) -> Size:
    """Return the crop size that holds each of `boxes` with context: a bucket where the frame has room for one."""
    width = max(box.width for box in boxes)
    height = max(box.height for box in boxes)
    return Size(
        _crop_side(width, margin, frame.width, limits.min_side),
        _crop_side(height, margin, frame.height, limits.min_side),
    )


def _crop_side(length: int, margin: int, frame: int, min_side: int) -> int:
    """Choose a crop's side: a bucket, else the largest multiple of 16 with some context, else the frame's side."""
    wanted = _bucket(max(length + 2 * margin, min_side))
    if wanted <= frame:
        return wanted
    whole = align_down(frame, TOKEN_PX)
    return whole if 0 < length <= whole - 2 * TOKEN_PX else frame


def _bucket(side: int) -> int:
    """Round a side up to a bucket: 64, 80, 96, 112, 128, 160, ..., multiples of 16, at most a quarter apart."""
    step = max(TOKEN_PX, 1 << max(0, (side - 1).bit_length() - 3))
    return align_up(side, step)


def _place(union: Box, crop: Size, frame: Size) -> Box:
    """Place a crop inside the frame with `union` in its middle, as far as the frame allows."""
    x = union.x + union.width // 2 - crop.width // 2
    y = union.y + union.height // 2 - crop.height // 2
    return Box(
        max(0, min(x, frame.width - crop.width)),
        max(0, min(y, frame.height - crop.height)),
        crop.width,
        crop.height,
    )


def _nearest(side: int) -> int:
    return max(TOKEN_PX, (side + TOKEN_PX // 2) // TOKEN_PX * TOKEN_PX)


def _within_budget(size: Size, num_frames: int, max_tokens: int) -> Size:
    tokens = token_count(num_frames, size)
    return size if tokens <= max_tokens else shrunk(size, math.sqrt(max_tokens / tokens))


def shrunk(size: Size, scale: float) -> Size:
    """Scale a size down to a legal model size of at most `scale` times `size`, at least one token."""
    return Size(_shrunk_side(size.width, scale), _shrunk_side(size.height, scale))


def _shrunk_side(side: int, scale: float) -> int:
    return max(TOKEN_PX, align_down(int(side * scale), TOKEN_PX))


def spread(start: int, stop: int, limits: WindowLimits) -> list[tuple[int, int]]:
    """Spread spans of at most `max_frames` evenly over start..stop-1, with at least the limits' overlap."""
    length = stop - start
    longest = limits.max_frames
    if length <= longest:
        return [(start, stop)]
    count = math.ceil((length - limits.overlap_frames) / (longest - limits.overlap_frames))
    starts = [start + k * (length - longest) // (count - 1) for k in range(count)]
    return [(s, s + longest) for s in starts]


def _legal_span(start: int, stop: int, shot: Shot) -> tuple[int, int, int]:
    """Grow a span to 4n+1 frames with frames of its shot; returns (start, stop, num_frames).

    Where the shot is too short, `num_frames` exceeds stop - start: the window holds its last frame.
    """
    num_frames = legal_num_frames(stop - start)
    stop = min(shot.stop, start + num_frames)
    start = max(shot.start, stop - num_frames)
    return start, stop, num_frames


def fade_weights(index: int, windows: Sequence[Window]) -> list[float]:
    """Weigh the windows that hold frame `index` by the distance to their nearer end; the weights add up to 1.

    Raises:
        ValueError: the frame lies outside a window.
    """
    raw = [min(index - window.start + 1, window.stop - index) for window in windows]
    if any(weight < 1 for weight in raw):
        raise ValueError(f"frame {index} lies outside one of {list(windows)}")
    return [weight / sum(raw) for weight in raw]
