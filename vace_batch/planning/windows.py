"""Where the work is: shots, regions and windows of one clip. Pure functions; no I/O, no arrays.

Frames count from 0 in the order they are shown; ranges are half-open; boxes are in display pixels.
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
"""Parts nearer than about this far share their context, and so a region."""

_WORTH_FOLLOWING = 1.25
"""A crop follows its object when a constant one would be larger by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model can take in one window, and which gaps it is spared.

    `widest_hole_px`: the widest hole, at model scale, that it paints well in a picture that stands still, where other
    frames of the window tell it nothing; None where that is not known to be a limit.
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
    """Objects near each other in frames start..stop-1 of one shot. All their windows are cut out of the picture at
    `crop` pixels and shown to the model at `size`."""

    shot: int
    start: int
    stop: int
    crop: Size
    size: Size

    @property
    def token_px(self) -> int:
        """Source pixels that make one token's side at model scale."""
        scale = min(self.size.width / self.crop.width, self.size.height / self.crop.height)
        return math.ceil(TOKEN_PX / scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames start..stop-1 of a region, cut out at `box`, which holds every mask of the region in them.

    The model sees `num_frames` = 4n+1; where the shot has fewer, the last one is held.
    """

    region: int
    start: int
    stop: int
    num_frames: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class Track:
    """What one region is made for: the bounding box of its mask in every frame that has one; `frames` rise."""

    frames: Sequence[int]
    boxes: Sequence[Box]

    @classmethod
    def of(cls, boxes: Mapping[int, Box]) -> Track:
        """The track of boxes by frame."""
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
        """Context round the mask in px: a quarter of its longer side in the frame where it is largest."""
        return max(2 * TOKEN_PX, max(max(box.width, box.height) for box in self.boxes) // 4)

    @cached_property
    def whole(self) -> Box:
        """The smallest box that holds all masks."""
        box = union_of(self.boxes)
        assert box is not None
        return box

    def union(self, start: int, stop: int) -> Box | None:
        """The smallest box that holds the masks of frames start..stop-1."""
        return union_of(self.boxes[bisect_left(self.frames, start) : bisect_left(self.frames, stop)])


def masked_runs(frames: Sequence[int], shot: Shot, max_gap: int) -> tuple[tuple[int, int], ...]:
    """Stretches of a shot that hold masks; stretches less than `max_gap` + 1 frames apart are one."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frame for frame in frames if shot.start <= frame < shot.stop):
        if runs and frame - runs[-1][1] <= max_gap:
            runs[-1] = (runs[-1][0], frame + 1)
        else:
            runs.append((frame, frame + 1))
    return tuple(runs)


def plan_clip(
    parts: Mapping[int, Sequence[Box]], shots: Sequence[Shot], frame: Size, limits: Limits
) -> tuple[tuple[Region, ...], tuple[Window, ...]]:
    """Regions and windows for the masks of a clip; `parts` holds the boxes of the connected parts of each frame's mask.

    Parts that come near each other anywhere in a shot share a region, and so do others where that costs fewer tokens.
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


def tracks_of(parts: Mapping[int, Sequence[Box]], shot: Shot, frame: Size, limits: Limits) -> list[Track]:
    """The parts of one shot's masks, sorted into what shares a region, earliest first."""
    tracks = [
        run
        for boxes in _near_parts(parts)
        for run in _runs_of(Track.of(boxes), masked_runs(list(boxes), shot, limits.overlap_frames))
    ]
    tracks.sort(key=lambda track: (track.start, track.stop, astuple(track.boxes[0])))
    return _joined_where_cheaper(tracks, frame, limits)


def _near_parts(parts: Mapping[int, Sequence[Box]]) -> list[dict[int, Box]]:
    """Parts joined when their boxes, grown by a cell, touch a common cell of a coarse grid in any two frames."""
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
    """First and last column and row of the grid cells that a box, grown by one cell's side, touches."""
    grown = box.pad(_CELL_PX // 2)
    return grown.x // _CELL_PX, grown.y // _CELL_PX, (grown.right - 1) // _CELL_PX, (grown.bottom - 1) // _CELL_PX


def _runs_of(track: Track, runs: Sequence[tuple[int, int]]) -> Iterator[Track]:
    for start, stop in runs:
        part = slice(bisect_left(track.frames, start), bisect_left(track.frames, stop))
        yield Track(frames=track.frames[part], boxes=track.boxes[part])


def _joined_where_cheaper(tracks: list[Track], frame: Size, limits: Limits) -> list[Track]:
    """Tracks, earliest first, pairs of them joined as long as that saves work; an hour may have thousands."""
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
                # Those before it may be worth joining with what it has become.
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


def _cost(track: Track, frame: Size, limits: Limits) -> int:
    """Pixels that a track's windows show to the model."""
    crop = _crop_size([track.whole], track.margin, frame, limits)
    spans = spread(track.start, track.stop, limits)
    return sum(stop - start for start, stop in spans) * crop.width * crop.height


def _plan_track(
    track: Track, shot_number: int, region_number: int, shot: Shot, frame: Size, limits: Limits
) -> tuple[Region, list[Window]]:
    """One region and its windows. Their boxes are the same, or follow the object where that makes them much smaller."""
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


def _crop_size(boxes: Sequence[Box], margin: int, frame: Size, limits: Limits) -> Size:
    """The size that holds each of `boxes` with context, in a bucket where the frame has room for one."""
    width = max(box.width for box in boxes)
    height = max(box.height for box in boxes)
    return Size(
        _crop_side(width, margin, frame.width, limits.min_side),
        _crop_side(height, margin, frame.height, limits.min_side),
    )


def _crop_side(length: int, margin: int, frame: int, min_side: int) -> int:
    """One side of a crop: a bucket, else the largest multiple of 16 that leaves some context, else the frame's side."""
    wanted = _bucket(max(length + 2 * margin, min_side))
    if wanted <= frame:
        return wanted
    whole = align_down(frame, TOKEN_PX)
    return whole if 0 < length <= whole - 2 * TOKEN_PX else frame


def _bucket(side: int) -> int:
    """The next of few sides, multiples of 16: 64, 80, 96, 112, 128, 160, .., at most a quarter apart."""
    step = max(TOKEN_PX, 1 << max(0, (side - 1).bit_length() - 3))
    return align_up(side, step)


def _place(union: Box, crop: Size, frame: Size) -> Box:
    """A box of size `crop` inside the frame with `union` in its middle, as far as the frame allows."""
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
    """A size that a model can be shown, at most `scale` times `size`; one token at least."""
    return Size(_shrunk_side(size.width, scale), _shrunk_side(size.height, scale))


def _shrunk_side(side: int, scale: float) -> int:
    return max(TOKEN_PX, align_down(int(side * scale), TOKEN_PX))


def spread(start: int, stop: int, limits: Limits) -> list[tuple[int, int]]:
    """Spans of at most `max_frames` that cover start..stop-1, evenly spread, with at least the overlap asked for."""
    length = stop - start
    longest = limits.max_frames
    if length <= longest:
        return [(start, stop)]
    count = math.ceil((length - limits.overlap_frames) / (longest - limits.overlap_frames))
    starts = [start + k * (length - longest) // (count - 1) for k in range(count)]
    return [(s, s + longest) for s in starts]


def _legal_span(start: int, stop: int, shot: Shot) -> tuple[int, int, int]:
    """A span grown to 4n+1 frames with real frames of its shot; what the shot lacks is left to held frames."""
    num_frames = legal_num_frames(stop - start)
    stop = min(shot.stop, start + num_frames)
    start = max(shot.start, stop - num_frames)
    return start, stop, num_frames


def fade_weights(index: int, windows: Sequence[Window]) -> list[float]:
    """Weights, adding up to 1, of the windows that hold frame `index`: by distance to the window's nearer end."""
    raw = [min(index - window.start + 1, window.stop - index) for window in windows]
    if any(weight < 1 for weight in raw):
        raise ValueError(f"frame {index} lies outside one of {list(windows)}")
    return [weight / sum(raw) for weight in raw]
