"""Objects of a shot: what was seen frame by frame, grouped by identity, without what was seen by mistake.

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
"""An object that is not seen for so long is still where its way leads; its mask is filled in."""

# One or two frames in the middle of a shot are no object.
_LEAST_SIGHTINGS = 3
_LOST_FRAMES = 30
# From frame to frame the edge of the picture may cut off most of an object; over a gap it must be of one size.
_MOST_GROWTH, _MOST_GROWTH_AT_ONCE = 2.5, 5.0
_REACH, _REACH_A_FRAME, _REACH_OF_ONE = 1.25, 0.1, 1.6
_STEPS_OF_SPEED = (1, 3)
# A turn that nobody saw: within so many frames, at the pace of so many sightings and a quarter more.
_TURN_FRAMES, _PACE_SIGHTINGS, _FASTER = 3, 6, 1.25
_COLOURS_ALIKE = 0.25

XY = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An object in one frame; `colours` is what its colours are like, equal lengths throughout, empty where unknown."""

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
    """One object's appearance: `sightings` by rising frame; an object that went and came back has two, of one `id`."""

    id: int
    label: str
    sightings: tuple[Sighting, ...]

    @property
    def area(self) -> float:
        """Its mean box in pixels, times the frames that it was seen in."""
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
    """The objects of the shot of frames start..stop-1, numbered from `first_id` by their first frame.

    An object must have been seen `sure` once and three times in all; at the ends of a shot once is enough. `warps`, one
    a frame, are the camera's motion for BoT-SORT; without them it is ByteTrack.
    """
    by_label: dict[str, list[Sighting]] = defaultdict(list)
    for one in sorted(sightings, key=lambda one: (one.index, -one.confidence)):
        by_label[one.label].append(one)
    kept = [
        piece
        for label in sorted(by_label)
        for piece in _whole(_pieces(by_label[label], shot, sure, unsure, warps))
        if _is_object(piece, shot, sure)
    ]
    return _numbered(sorted(kept, key=lambda piece: (piece[0].index, piece[0].box.x, piece[0].box.y)), first_id)


def _pieces(
    seen: list[Sighting], shot: tuple[int, int], sure: float, unsure: float, warps: Sequence[Warp] | None
) -> list[list[Sighting]]:
    indices = [one.index for one in seen]
    frames = []
    for index in range(*shot):
        first = bisect_left(indices, index)
        last = bisect_right(indices, index)
        rows = [(one.box.x, one.box.y, one.box.right, one.box.bottom, one.confidence) for one in seen[first:last]]
        frames.append((first, np.array(rows, np.float64).reshape(-1, 5)))
    groups = group_by_object(frames, sure, unsure, _LOST_FRAMES, warps)
    taken = {number for group in groups for number in group}
    # ByteTrack tells of an object from its second frame on, and never of what moves faster than it expects.
    groups += [[number] for number in range(len(seen)) if number not in taken]
    pieces = [[seen[number] for number in group] for group in groups]
    return [part for piece in pieces for part in _split_at_gaps(piece)]


def _split_at_gaps(piece: list[Sighting]) -> list[list[Sighting]]:
    """Cut at every gap: what ByteTrack did not take for the object may be what fills it, and linking decides again."""
    parts = [piece[:1]]
    for before, after in zip(piece, piece[1:], strict=False):
        if after.index > before.index + 1:
            parts.append([])
        parts[-1].append(after)
    return parts


def _whole(pieces: list[list[Sighting]]) -> list[list[Sighting]]:
    """Pieces joined where one goes on where another ends, over shorter gaps first: a sighting alone has no speed, with
    its neighbour it has."""
    for steps in range(1, MOST_GAP_FRAMES + 2):
        count = len(pieces) + 1
        while len(pieces) < count:
            count = len(pieces)
            pieces = _linked(pieces, steps)
    return pieces


def _linked(pieces: list[list[Sighting]], steps: int) -> list[list[Sighting]]:
    """Join pieces that lie `steps` frames apart: nearest first, each with one before and one after at most."""
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
    """Distance and numbers of each two pieces, by rising first frame, that may be one object `steps` frames apart."""
    starts = [piece[0].index for piece in pieces]
    for number, piece in enumerate(pieces):
        begin = piece[-1].index + steps
        for other in range(bisect_left(starts, begin), bisect_right(starts, begin)):
            distance = _distance(piece, pieces[other])
            if distance is not None:
                yield distance, number, other


def _distance(before: list[Sighting], after: list[Sighting]) -> float | None:
    """How near two pieces come in the gap between them, the one led on by its speed and the other back by its own; None
    where they are no one object.

    They may meet anywhere in the gap, as what nobody saw may be a turn; a turn just before it spoils all but the last
    step's speed. Over a short gap it is enough to have kept the pace.
    """
    steps = after[0].index - before[-1].index
    few = len(before) + len(after) <= _LEAST_SIGHTINGS
    if not _alike_in_size(before[-1], after[0], steps) or (few and steps > _TURN_FRAMES):
        return None
    side = max(before[-1].box.width, before[-1].box.height, after[0].box.width, after[0].box.height)
    base = _REACH_OF_ONE if len(before) == 1 or len(after) == 1 else _REACH
    reach = side * (base + _REACH_A_FRAME * (steps - 1))
    apart = _centre(after[0]) - _centre(before[-1])
    ahead = [_speed(before[-count - 1 :]) for count in _STEPS_OF_SPEED]
    back = [_speed(after[: count + 1]) for count in _STEPS_OF_SPEED]
    distance = abs(apart)
    if distance <= reach + steps * (max(map(abs, ahead)) + max(map(abs, back))):
        ways = product(ahead, back, range(steps + 1))
        distance = min(abs(apart - gone * one - (steps - gone) * other) for one, other, gone in ways)
    pace = max(_pace(before[-_PACE_SIGHTINGS:]), _pace(after[:_PACE_SIGHTINGS])) if steps <= _TURN_FRAMES else 0.0
    return distance if distance <= reach or abs(apart) <= _FASTER * pace * steps else None


def _centre(one: Sighting) -> complex:
    """Its centre, x + yi."""
    return complex(one.box.x + one.box.width / 2, one.box.y + one.box.height / 2)


def _speed(piece: list[Sighting]) -> complex:
    steps = piece[-1].index - piece[0].index
    return (_centre(piece[-1]) - _centre(piece[0])) / steps if steps else 0j


def _pace(piece: list[Sighting]) -> float:
    """The most pixels that it went from a frame to the next, whatever way."""
    return max((abs(_speed(list(pair))) for pair in pairwise(piece)), default=0.0)


def _alike_in_size(one: Sighting, other: Sighting, steps: int) -> bool:
    areas = one.box.width * one.box.height, other.box.width * other.box.height
    return max(areas) <= (_MOST_GROWTH_AT_ONCE if steps <= 2 else _MOST_GROWTH) * min(areas)


def _is_object(piece: list[Sighting], shot: tuple[int, int], sure: float) -> bool:
    at_an_end = piece[0].index == shot[0] or piece[-1].index == shot[1] - 1
    enough = len(piece) >= _LEAST_SIGHTINGS or at_an_end
    return enough and max(one.confidence for one in piece) >= sure


def _numbered(pieces: list[list[Sighting]], first_id: int) -> list[TrackedObject]:
    """One that looks like the only one of its kind that went before is that one, come back."""
    made: list[TrackedObject] = []
    for piece in pieces:
        gone = {
            track.id
            for track in made
            if track.label == piece[0].label
            and all(other.sightings[-1].index < piece[0].index for other in made if other.id == track.id)
            and _look_alike(track.sightings[-1], piece[0])
        }
        fresh = max((track.id for track in made), default=first_id - 1) + 1
        number = gone.pop() if len(gone) == 1 else fresh
        made.append(TrackedObject(id=number, label=piece[0].label, sightings=tuple(piece)))
    return made


def _look_alike(one: Sighting, other: Sighting) -> bool:
    if not one.colours or len(one.colours) != len(other.colours) or not _alike_in_size(one, other, MOST_GAP_FRAMES):
        return False
    return 0.5 * float(np.abs(np.subtract(one.colours, other.colours)).sum()) <= _COLOURS_ALIKE
