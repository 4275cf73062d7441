"""Follow objects over their shot by SAM 2's memory or their last outline, from hand-made marks or from detections.

A memory that goes backwards reads the frames again, a few at a time, so that no shot is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.keyframes import BoxTrack
from vace_batch.masks.segmenters.sam import Prompt
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.masks.store import FrameMask, PackedMask, box_mask
from vace_batch.masks.tracking.objects import MOST_GAP_FRAMES, Sighting, TrackedObject
from vace_batch.video.frame import Frame

# Padding of the last outline's box, for the object's motion from frame to frame.
_FOLLOW_REACH = 0.05
# A mask that grows by more from frame to frame means that the memory lost the object.
_MOST_GROWTH = 2.5
_HELD_FRAMES = 8

FrameReader = Callable[[int, int], Iterable[Frame]]
"""Reads frames start..stop-1 of the clip once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedObject:
    """An object marked by hand on some frames; `track` holds the boxes that marked it, if any."""

    marks: Mapping[int, Mark]
    track: BoxTrack | None = None

    def box_at(self, index: int, size: Size) -> Box | None:
        """Return the interpolated box on frame `index`, or None."""
        return None if self.track is None else self.track.at(index, size)

    def covers(self, index: int) -> bool:
        """Return whether the object may be on frame `index`; a bounded one only from its first mark to its last."""
        return not self.is_bounded or min(self.marks) <= index <= max(self.marks)

    @property
    def is_bounded(self) -> bool:
        """Whether several boxes mark the object's first and last frame."""
        return self.track is not None and len(self.track.keys) > 1

    def first_mark(self, index: int, size: Size) -> Mark | None:
        """Return the mark on frame `index` that may begin a memory; the track's box if its marks are in other shots."""
        mark, box = self.marks.get(index), self.box_at(index, size)
        if box is not None and (mark is None or mark.box is None):
            mark = Mark(box=box, points=mark.points if mark else ())
        return mark if mark is not None and mark.begins else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An object's masks on one frame; `has_box`: the memory missed the object's box, so the box is masked too."""

    masks: tuple[FrameMask, ...] = ()
    has_box: bool = False


@dataclass(slots=True)
class ObjectFollower:
    """Follows a marked object through one shot, by the segmenter's memory or, without one, by its last outline."""

    marked: MarkedObject
    last_outline: Box | None = None
    past: Any = None

    def remembered(self, memory: Memory, index: int, size: Size) -> Remembered:
        """Find the object in the last frame that `memory` saw; empty before its first mark and while it is away."""
        mark = self.marked.marks.get(index)
        if self.past is None:
            mark = self.marked.first_mark(index, size)
            if mark is None:
                return Remembered()
            self.past = memory.new_past()
        if not self.marked.covers(index):
            return Remembered()
        mask, box = memory.find(self.past, index, mark), self.marked.box_at(index, size)
        masks = () if mask is None else (mask,)
        if box is not None and (mask is None or mask.box.intersect(box) is None):
            # An object to be removed must not stay.
            return Remembered(masks=(*masks, box_mask(index, box)), has_box=True)
        return Remembered(masks=masks)

    def before(self, memory: Memory, shot: tuple[int, int], read: FrameReader) -> Iterator[FrameMask]:
        """Yield the object's masks in the frames of the shot before its first mark, the last of these frames first."""
        begins = [index for index, mark in self.marked.marks.items() if shot[0] <= index < shot[1] and mark.begins]
        if begins and not self.marked.is_bounded:
            yield from track_by_memory(memory, self.marked.marks[min(begins)], min(begins), shot[0] - 1, read)

    def prompt(self, index: int, size: Size) -> Prompt | None:
        """Return the prompt on frame `index` for a segmenter without a memory."""
        mark = self.marked.marks.get(index, Mark())
        if mark.begins:
            return Prompt(points=mark.points)
        if self.last_outline is None:
            return None
        return Prompt(box=grow_box(self.last_outline, _FOLLOW_REACH, size), points=mark.points)


def track_by_memory(
    memory: Memory, mark: Mark, index: int, stop: int, read: FrameReader, patience: int | None = None
) -> Iterator[FrameMask]:
    """Track the object marked on frame `index` towards frame `stop`, in either direction, both ends excluded.

    Tracking ends when the object is lost for more than `patience` frames, if given; an object that grows suddenly
    counts as lost.
    """
    past = memory.new_past()
    num_lost = 0
    area = 0 if mark.mask is None else int(mark.mask.bits.sum())
    for number, rgb_HWC in _frames_between(index, stop, read):
        memory.see(rgb_HWC)
        mask = memory.find(past, number, mark if number == index else None, time=abs(number - index))
        if number == index:
            continue
        if mask is None or (patience is not None and 0 < _MOST_GROWTH * area < mask.bits.sum()):
            num_lost += 1
            if patience is not None and num_lost > patience:
                return
            continue
        num_lost = 0
        area = int(mask.bits.sum())
        yield mask


def fill_from_memory(track: TrackedObject, memory: Memory, shot: tuple[int, int], read: FrameReader) -> TrackedObject:
    """Add sightings by `memory` to a tracked object: in its gaps, before its first and after its last sighting."""
    seen = track.sightings
    by_frame = {one.index: one for one in seen}
    for one, stop in ((seen[0], shot[0] - 1), *_gaps(seen), (seen[-1], shot[1])):
        for mask in track_by_memory(memory, Mark(mask=one.mask.unpack()), one.index, stop, read, MOST_GAP_FRAMES):
            remembered = replace(one, index=mask.index, confidence=0.0, box=mask.box, mask=PackedMask.of(mask))
            by_frame.setdefault(mask.index, remembered)
    return replace(track, sightings=tuple(by_frame[index] for index in sorted(by_frame)))


def grow_box(box: Box, share: float, size: Size) -> Box:
    """Pad `box` by `share` of its longer side, inside the frame."""
    return box.pad(max(round(share * max(box.width, box.height)), 2)).clip(size) or box


def _gaps(seen: Iterable[Sighting]) -> Iterator[tuple[Sighting, int]]:
    """Yield each sighting beside a gap with the frame at the gap's other end: each gap is filled from both sides."""
    for before, after in pairwise(seen):
        yield before, after.index
        yield after, before.index


def _frames_between(index: int, stop: int, read: FrameReader) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield number and pixels of the frames from `index` towards `stop`, `stop` excluded."""
    if abs(stop - index) == 1:  # no frame between
        return
    if stop > index:
        yield from ((frame.index, frame.rgb()) for frame in read(index, stop))
        return
    for last in range(index + 1, stop + 1, -_HELD_FRAMES):
        held = [(frame.index, frame.rgb()) for frame in read(max(last - _HELD_FRAMES, stop + 1), last)]
        yield from reversed(held)
