"""Group a shot's detections into objects by identity, and drop false detections.

Coordinates are display pixels; a centre is (x, y).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.masks.store import PackedMask
from vace_batch.masks.tracking.trackers import Warp, group_by_object

MOST_GAP_FRAMES = 15
"""Gaps of at most this many frames are filled in; a longer absence ends an appearance."""

# Fewer sightings in the middle of a shot are no object.
_LEAST_SIGHTINGS = 3
_LOST_FRAMES = 30
# The most growth in area over a gap, and from frame to frame, as the edge of the frame may cut off most of an object.
_MOST_GROWTH, _MOST_GROWTH_AT_ONCE = 2.5, 5.0
_REACH, _REACH_A_FRAME, _REACH_OF_ONE = 1.25, 0.1, 1.6
_STEPS_OF_SPEED = (1, 3)
# An unseen turn: within so many frames, at most a quarter faster than the pace of so many sightings.
_TURN_FRAMES, _PACE_SIGHTINGS, _FASTER = 3, 6, 1.25
_COLOURS_ALIKE = 0.25

XY = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An object in one frame; `colours` is its colour histogram, of equal length throughout, empty if unknown."""

    index: int
    label: str
    confidence: float
    box: Box
    mask: PackedMask
    colours: tuple[float, ...] = ()

    @property
    def centre(self) -> XY:
        return np.array([self.box.x + self.box.width / 2, self.box.y + self.box.height / 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedObject:
    """One appearance of an object: `sightings` by rising frame; an object that returned has two, of one `id`."""

    id: int
    label: str
    sightings: tuple[Sighting, ...]

    @property
    def area(self) -> float:
        """The sum of the object's box areas over its sightings, in pixels."""
        return float(sum(one.box.width * one.box.height for one in self.sightings))


def track_shot(
    sightings: Sequence[Sighting],
    shot: tuple[int, int],
    *,
    sure: float,
    unsure: float,
    first_id: int = 1,
    warps: Sequence[Warp] | None = None,
) -> list[TrackedObject]:
    """Return the objects of the shot of frames start..stop-1, numbered from `first_id` by their first frame.

    An object needs one sighting of confidence `sure` and three sightings in all; one sighting is enough at the ends of
    a shot. `warps`, one a frame, are the camera's motion for BoT-SORT; ByteTrack runs without them.
    """
    by_label: dict[str, list[Sighting]] = defaultdict(list)
    for one in sorted(sightings, key=lambda one: (one.index, -one.confidence)):
        by_label[one.label].append(one)
    objects = [
        piece
        for label in sorted(by_label)
        for piece in _whole(_pieces(by_label[label], shot, sure, unsure, warps))
        if _is_object(piece, shot, sure)
    ]
    return _numbered(sorted(objects, key=lambda piece: (piece[0].index, piece[0].box.x, piece[0].box.y)), first_id)


def _pieces(
    seen: list[Sighting], shot: tuple[int, int], sure: float, unsure: float, warps: Sequence[Warp] | None
) -> list[list[Sighting]]:
    """Group one class's sightings by ByteTrack or BoT-SORT, and split the groups at gaps."""
    groups = group_by_object(_rows_by_frame(seen, shot), sure, unsure, _LOST_FRAMES, warps)
    taken = {number for group in groups for number in group}
    # ByteTrack reports an object from its second frame on, and never one that moves faster than it expects.
    groups += [[number] for number in range(len(seen)) if number not in taken]
    pieces = [[seen[number] for number in group] for group in groups]
    return [part for piece in pieces for part in _split_at_gaps(piece)]


def _rows_by_frame(seen: list[Sighting], shot: tuple[int, int]) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Return for each frame of a shot the number of its first sighting, and its sightings as rows for a tracker.

    A row holds left, top, right, bottom and confidence.
    """
    indices = [one.index for one in seen]
    frames = []
    for index in range(*shot):
        first = bisect_left(indices, index)
        last = bisect_right(indices, index)
        rows = [(one.box.x, one.box.y, one.box.right, one.box.bottom, one.confidence) for one in seen[first:last]]
        frames.append((first, np.array(rows, np.float64).reshape(-1, 5)))
    return frames


def _split_at_gaps(piece: list[Sighting]) -> list[list[Sighting]]:
    """Split at every gap; `_linked` decides which pieces belong together, as another piece may fill the gap."""
    parts = [piece[:1]]
    for before, after in zip(piece, piece[1:], strict=False):
        if after.index > before.index + 1:
            parts.append([])
        parts[-1].append(after)
    return parts


def _whole(pieces: list[list[Sighting]]) -> list[list[Sighting]]:
    """Join pieces of one object, over shorter gaps first: a lone sighting has no speed, two have one."""
    for steps in range(1, MOST_GAP_FRAMES + 2):
        count = len(pieces) + 1
        while len(pieces) < count:
            count = len(pieces)
            pieces = _linked(pieces, steps)
    return pieces


def _linked(pieces: list[list[Sighting]], steps: int) -> list[list[Sighting]]:
    """Join pieces that lie `steps` frames apart, nearest first, each to at most one before and one after it."""
    pieces = sorted(pieces, key=lambda piece: piece[0].index)
    following: dict[int, int] = {}
    taken: set[int] = set()
    for _, before, after in sorted(_meetings(pieces, steps)):
        if before not in following and after not in taken:
            following[before] = after
            taken.add(after)
    joined = []
    for head in (number for number in range(len(pieces)) if number not in taken):
        chain = list(pieces[head])
        number: int | None = following.get(head)
        while number is not None:
            chain += pieces[number]
            number = following.get(number)
        joined.append(chain)
    return joined


def _meetings(pieces: list[list[Sighting]], steps: int) -> Iterator[tuple[float, int, int]]:
    """Yield distance and numbers of every two pieces, by rising first frame, that may be one object `steps` frames
    apart."""
    starts = [piece[0].index for piece in pieces]
    for number, piece in enumerate(pieces):
        begin = piece[-1].index + steps
        for other in range(bisect_left(starts, begin), bisect_right(starts, begin)):
            distance = _distance(piece, pieces[other])
            if distance is not None:
                yield distance, number, other


def _distance(before: list[Sighting], after: list[Sighting]) -> float | None:
    """Return how near two pieces come in their gap, extrapolated by their speeds; None if they cannot be one object.

    Over a short gap, keeping the pace is enough.
    """
    steps = after[0].index - before[-1].index
    few = len(before) + len(after) <= _LEAST_SIGHTINGS
    if not _alike_in_size(before[-1], after[0], steps) or (few and steps > _TURN_FRAMES):
        return None
    reach = _reach(before, after, steps)
    distance = _extrapolated_distance(before, after, reach)
    return distance if distance <= reach or _keeps_pace(before, after) else None


def _reach(before: list[Sighting], after: list[Sighting], steps: int) -> float:
    """Return the largest distance, in px, over which two pieces `steps` frames apart are joined."""
    side = max(before[-1].box.width, before[-1].box.height, after[0].box.width, after[0].box.height)
    base = _REACH_OF_ONE if len(before) == 1 or len(after) == 1 else _REACH
    return side * (base + _REACH_A_FRAME * (steps - 1))


def _extrapolated_distance(before: list[Sighting], after: list[Sighting], reach: float) -> float:
    """Return how near two pieces come if both go on at their speeds, or their plain distance if it is far over `reach`.

    The pieces may meet anywhere in the gap, which may hide a turn. A turn just before the gap spoils all but the last
    step's speed.
    """
    steps = after[0].index - before[-1].index
    apart = _centre(after[0]) - _centre(before[-1])
    ahead = [_speed(before[-count - 1 :]) for count in _STEPS_OF_SPEED]
    back = [_speed(after[: count + 1]) for count in _STEPS_OF_SPEED]
    if abs(apart) > reach + steps * (max(map(abs, ahead)) + max(map(abs, back))):
        return abs(apart)
    ways = product(ahead, back, range(steps + 1))
    return min(abs(apart - gone * one - (steps - gone) * other) for one, other, gone in ways)


def _keeps_pace(before: list[Sighting], after: list[Sighting]) -> bool:
    """Tell whether an object crosses the gap at about its own pace; False over a gap that is not short."""
    steps = after[0].index - before[-1].index
    pace = max(_pace(before[-_PACE_SIGHTINGS:]), _pace(after[:_PACE_SIGHTINGS])) if steps <= _TURN_FRAMES else 0.0
    return abs(_centre(after[0]) - _centre(before[-1])) <= _FASTER * pace * steps


def _centre(one: Sighting) -> complex:
    """Return the centre as x + yi."""
    return complex(one.box.x + one.box.width / 2, one.box.y + one.box.height / 2)


def _speed(piece: list[Sighting]) -> complex:
    """Return the mean motion of a piece, in px a frame, as x + yi."""
    steps = piece[-1].index - piece[0].index
    return (_centre(piece[-1]) - _centre(piece[0])) / steps if steps else 0j


def _pace(piece: list[Sighting]) -> float:
    """Return the largest motion from one sighting to the next, in px a frame, in any direction."""
    return max((abs(_speed(list(pair))) for pair in pairwise(piece)), default=0.0)


def _alike_in_size(one: Sighting, other: Sighting, steps: int) -> bool:
    areas = one.box.width * one.box.height, other.box.width * other.box.height
    return max(areas) <= (_MOST_GROWTH_AT_ONCE if steps <= 2 else _MOST_GROWTH) * min(areas)


def _is_object(piece: list[Sighting], shot: tuple[int, int], sure: float) -> bool:
    at_an_end = piece[0].index == shot[0] or piece[-1].index == shot[1] - 1
    enough = len(piece) >= _LEAST_SIGHTINGS or at_an_end
    return enough and max(one.confidence for one in piece) >= sure


def _numbered(pieces: list[list[Sighting]], first_id: int) -> list[TrackedObject]:
    """Number the pieces; reuse the id of an earlier object if exactly one of the class looks alike and is gone."""
    tracks: list[TrackedObject] = []
    for piece in pieces:
        gone = {
            track.id
            for track in tracks
            if track.label == piece[0].label
            and all(other.sightings[-1].index < piece[0].index for other in tracks if other.id == track.id)
            and _look_alike(track.sightings[-1], piece[0])
        }
        fresh = max((track.id for track in tracks), default=first_id - 1) + 1
        number = gone.pop() if len(gone) == 1 else fresh
        tracks.append(TrackedObject(id=number, label=piece[0].label, sightings=tuple(piece)))
    return tracks


def _look_alike(one: Sighting, other: Sighting) -> bool:
    if not one.colours or len(one.colours) != len(other.colours) or not _alike_in_size(one, other, MOST_GAP_FRAMES):
        return False
    return 0.5 * float(np.abs(np.subtract(one.colours, other.colours)).sum()) <= _COLOURS_ALIKE
