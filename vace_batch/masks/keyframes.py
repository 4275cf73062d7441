"""Turn a job's boxes, static or keyframed, into pixel boxes of a frame; group its points by object and frame."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, PointKey

# Interpolated edges miss whole numbers by rounding errors; rounding them outward would add a pixel.
_EDGE_SLACK = 1e-6


PointPrompts = tuple[tuple[float, float, bool], ...]
"""Points of one object on one frame: x, y in display pixels, and whether the point is on the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTrack:
    """One object's box over time: `keys` by rising frame, or a single key without a frame for the whole clip.

    Between two keys the box moves linearly. Across a cut (the first frame of a shot) it does not move: each shot keeps
    the key on its side.
    """

    object_id: int
    keys: tuple[BoxKey, ...]
    cuts: tuple[int, ...] = ()

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last frame of a keyframed object, both included; None for an object on every frame."""
        first, last = self.keys[0].frame, self.keys[-1].frame
        return None if first is None or last is None else (first, last)

    def at(self, index: int, size: Size) -> Box | None:
        """Return the box in frame `index`, rounded outward and clipped; None outside the track or the frame."""
        if self.span is None:
            return _pixels(_edges(self.keys[0]), size)
        frames = [key.frame or 0 for key in self.keys]
        if not frames[0] <= index <= frames[-1]:
            return None
        before = bisect_right(frames, index) - 1
        after = min(before + 1, len(frames) - 1)
        share = self._share_of_way(index, frames[before], frames[after])
        ends = zip(_edges(self.keys[before]), _edges(self.keys[after]), strict=True)
        return _pixels([start + share * (end - start) for start, end in ends], size)

    def _share_of_way(self, index: int, before: int, after: int) -> float:
        """Return how far the box has moved in frame `index` from its key on frame `before` to its key on `after`, 0..1.

        A cut between the keys keeps the box at the key of its own shot.
        """
        crossed = [cut for cut in self.cuts if before < cut <= after]
        if crossed and not crossed[0] <= index < crossed[-1]:
            return 0.0 if index < crossed[0] else 1.0
        return (index - before) / max(after - before, 1)


def box_tracks(boxes: Sequence[BoxKey], size: Size, num_frames: int, cuts: Iterable[int] = ()) -> tuple[BoxTrack, ...]:
    """Group a job's boxes into tracks, and check each against the video's size and length.

    A key without a frame is a track of its own; keys with frames are joined by `object_id`.

    Raises:
        ClipError: `bad_box`, `box_outside_frame`, `keyframe_outside_video`, `duplicate_keyframe`.
    """
    static: list[BoxTrack] = []
    keyed: dict[int, list[BoxKey]] = defaultdict(list)
    for key in boxes:
        _check_key(key, num_frames)
        if key.frame is None:
            static.append(BoxTrack(object_id=key.object_id, keys=(key,)))
        else:
            keyed[key.object_id].append(key)
    cuts = tuple(sorted(cuts))
    tracks = (*static, *(_keyed_track(object_id, keys, cuts) for object_id, keys in keyed.items()))
    for track in tracks:
        _check_track(track, size)
    return tracks


def _keyed_track(object_id: int, keys: Sequence[BoxKey], cuts: tuple[int, ...]) -> BoxTrack:
    keys = sorted(keys, key=lambda key: key.frame or 0)
    for first, second in pairwise(keys):
        if first.frame == second.frame:
            reason = f"boxes: object {object_id} has two boxes on frame {first.frame}; give each its own object_id"
            raise ClipError("duplicate_keyframe", reason)
    return BoxTrack(object_id=object_id, keys=tuple(keys), cuts=cuts)


def _check_track(track: BoxTrack, size: Size) -> None:
    first, last = track.span or (0, 0)
    if all(track.at(index, size) is None for index in range(first, last + 1)):
        key = track.keys[0]
        where = f"{key.width:g}x{key.height:g} at ({key.x:g}, {key.y:g})"
        reason = f"boxes: object {track.object_id} ({where}) never touches the frame of {size}"
        raise ClipError("box_outside_frame", reason)


def points_by_object(
    points: Sequence[PointKey], size: Size, frame_range: tuple[int, int]
) -> dict[int, dict[int, PointPrompts]]:
    """Group point prompts by object id and frame: (x, y, is on the object).

    Raises:
        ClipError: `point_outside_frame`, `point_outside_range`, `no_positive_point`.
    """
    start, stop = frame_range
    grouped: dict[int, dict[int, PointPrompts]] = defaultdict(dict)
    for key in sorted(points, key=lambda key: (key.object_id, key.frame)):
        who = f"points: object {key.object_id} on frame {key.frame}"
        if not (0 <= key.x < size.width and 0 <= key.y < size.height):
            raise ClipError("point_outside_frame", f"{who}: ({key.x:g}, {key.y:g}) is outside the frame of {size}")
        if not start <= key.frame < stop:
            reason = f"{who}: the job covers frames {start}..{stop - 1}; mark the object on one of these frames"
            raise ClipError("point_outside_range", reason)
        frames = grouped[key.object_id]
        frames[key.frame] = (*frames.get(key.frame, ()), (key.x, key.y, key.positive))
    for number, frames in grouped.items():
        if not any(positive for *_, positive in next(iter(frames.values()))):
            reason = f"points: object {number} needs a positive point on its first frame (frame {next(iter(frames))})"
            raise ClipError("no_positive_point", reason)
    return dict(grouped)


def _check_key(key: BoxKey, num_frames: int) -> None:
    edges = (key.x, key.y, key.width, key.height)
    if not all(map(math.isfinite, edges)) or key.width <= 0 or key.height <= 0:
        raise ClipError("bad_box", f"boxes: expected finite numbers and a positive width and height, got {edges}")
    if key.frame is not None and not 0 <= key.frame < num_frames:
        reason = f"boxes: expected frames 0..{num_frames - 1}, got a keyframe on frame {key.frame}"
        raise ClipError("keyframe_outside_video", reason)


def _edges(key: BoxKey) -> tuple[float, float, float, float]:
    return key.x, key.y, key.x + key.width, key.y + key.height


def _pixels(edges: Sequence[float], size: Size) -> Box | None:
    left = max(math.floor(edges[0] + _EDGE_SLACK), 0)
    top = max(math.floor(edges[1] + _EDGE_SLACK), 0)
    right = min(math.ceil(edges[2] - _EDGE_SLACK), size.width)
    bottom = min(math.ceil(edges[3] - _EDGE_SLACK), size.height)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None
