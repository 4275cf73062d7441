"""Choose the frames that show a plate's background, and map the plate's pixels to theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.background.poses import Pose, ReadMasks, Segment, masks_of
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask

Levels = npt.NDArray[Any]

MIN_SAMPLES = 8
_MAX_SAMPLES = 32
_SAMPLE_BYTES = 192 << 20
_BYTES_A_PIXEL = 7
# Candidates beyond the segment on either side: a followed object hides what only frames before or after it show.
_REACH_FRAMES = 240
_MAX_CANDIDATES = 240
_CELLS_LONG_SIDE = 96
# Darker frames than this have too few levels left to show a background by.
_MAX_SAMPLE_GAIN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way from a plate's pixels to a frame's: the frame's pose, and the link from the plate's anchor to the pose's.

    `link` is None if both have the same anchor. `onwards`: the pose's anchor is frame `link` of the plate's segment;
    otherwise the plate's anchor is frame `link` of the pose's segment.
    """

    pose: Pose
    link: Pose | None = None
    onwards: bool = True

    @property
    def is_still(self) -> bool:
        """Whether the frame lies exactly on the plate."""
        return self.pose.is_still and (self.link is None or self.link.is_still)

    def flat(self) -> Route:
        """Return the route without meshes."""
        return replace(self, pose=self.pose.flat(), link=None if self.link is None else self.link.flat())

    def in_frame(self, places_xy: Levels) -> Levels:
        """Map (h, w, 2) pixels of the plate's anchor to the frame."""
        if self.link is not None:
            places_xy = self.link.in_frame(places_xy) if self.onwards else self.link.in_anchor(places_xy)
        return self.pose.in_frame(places_xy)

    def colours(self) -> tuple[Levels, Levels]:
        """Return gain and offset from the frame's colours to the plate's."""
        gain, offset = self.pose.gain, self.pose.offset
        if self.link is None:
            return gain, offset
        if self.onwards:
            return self.link.gain * gain, self.link.gain * offset + self.link.offset
        return gain / self.link.gain, (offset - self.link.offset) / self.link.gain


def reachable_frames(segments: Sequence[Segment], number: int) -> list[Route]:
    """Return routes to the frames of a segment and to nearby frames of its neighbours, in rising order."""
    segment = segments[number]
    routes = [Route(pose=pose) for pose in segment.poses]
    if segment.link is not None:
        before = segments[number - 1].poses[-_REACH_FRAMES:]
        routes[:0] = [Route(pose=pose, link=segment.link, onwards=False) for pose in before]
    after = segments[number + 1] if number + 1 < len(segments) else None
    if after is not None and after.link is not None:
        routes += [Route(pose=pose, link=after.link) for pose in after.poses[:_REACH_FRAMES]]
    return routes


def choose_samples(masks: ReadMasks, routes: Sequence[Route], box: Box, size: Size) -> list[Route]:
    """Choose the frames to gather: spread over time, then the frames that show most of the rarely shown cells."""
    bright = [route for route in routes if route.colours()[0].max() <= _MAX_SAMPLE_GAIN]
    routes = bright or routes
    limit = int(np.clip(_SAMPLE_BYTES // (box.width * box.height * _BYTES_A_PIXEL), MIN_SAMPLES, _MAX_SAMPLES))
    if len(routes) <= limit:
        return list(routes)
    step = np.linspace(0, len(routes) - 1, min(len(routes), _MAX_CANDIDATES)).round().astype(int)
    candidates = [routes[k] for k in step]
    held = masks_of(masks, [route.pose for route in candidates])
    seen_NC = np.stack([_cells_seen(route, mask, box, size) for route, (_, mask) in zip(candidates, held, strict=True)])
    chosen = list(np.linspace(0, len(candidates) - 1, limit // 2).round().astype(int))
    counts_C = seen_NC[chosen].sum(axis=0)
    while len(chosen) < limit:
        gains = seen_NC @ (1.0 / (1.0 + counts_C) ** 2)
        gains[chosen] = -1
        best = int(gains.argmax())
        chosen.append(best)
        counts_C = counts_C + seen_NC[best]
    return [candidates[k] for k in chosen]


def _cells_seen(route: Route, mask: FrameMask | None, box: Box, size: Size) -> npt.NDArray[Any]:
    """Return which cells of a coarse grid over the plate a frame shows; flat, 1 or 0."""
    scale = min(1.0, _CELLS_LONG_SIDE / max(box.width, box.height))
    columns = max(1, round(box.width * scale))
    rows = max(1, round(box.height * scale))
    x, y = np.meshgrid((np.arange(columns) + 0.5) / scale + box.x - 0.5, (np.arange(rows) + 0.5) / scale + box.y - 0.5)
    there = route.in_frame(np.stack([x, y], axis=-1).astype(np.float32)).reshape(-1, 2)
    column, row = np.rint(np.clip(np.nan_to_num(there), -1e6, 1e6)).astype(np.int64).T
    seen = (column >= 1) & (row >= 1) & (column < size.width - 1) & (row < size.height - 1)
    if mask is not None:
        column, row = column - mask.box.x, row - mask.box.y
        near = seen & (column >= 0) & (row >= 0) & (column < mask.box.width) & (row < mask.box.height)
        seen[near] &= ~mask.bits[row[near], column[near]]
    return np.asarray(seen, np.float32)
