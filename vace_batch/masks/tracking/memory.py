"""Objects over their shot from where they are marked: frame by frame, and by SAM 2's memory also where nobody looked.

A memory that goes backwards reads the frames again, a few at a time, so that no shot is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.keyframes import Track
from vace_batch.masks.segmenters.sam import Prompt
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.masks.store import FrameMask, PackedMask, box_mask
from vace_batch.masks.tracking.objects import MOST_GAP_FRAMES, Sighting, Tracked
from vace_batch.video.frame import Frame

# A followed object's next box: its last outline's, with room for what it moves from frame to frame.
_FOLLOW_REACH = 0.05
# A memory that takes the whole picture for the object has lost it.
_MOST_GROWTH = 2.5
_HELD_FRAMES = 8

Read = Callable[[int, int], Iterable[Frame]]
"""Frames start..stop-1 of the clip, once more."""


@dataclass(slots=True, kw_only=True)
class Followed:
    """An object marked on some frames: found until the next cut by the segmenter's memory or, where that has none and
    it is marked by points, prompted by its own last outline.

    `track` are the boxes that it was marked by. Where there are several it is there from its first mark to its last. On
    the frames `boxed` the memory did not find it where its boxes lead, and they are masked.
    """

    marks: Mapping[int, Mark]
    cuts: frozenset[int]
    track: Track | None = None
    last: Box | None = None
    past: Any = None
    boxed: set[int] = field(default_factory=set)

    def remembered(self, memory: Memory, index: int, size: Size) -> list[FrameMask]:
        """The object in the frame that `memory` saw last; nothing before it is marked and where it is not."""
        if index in self.cuts:
            self.past = None
        mark, box = self.marks.get(index), None if self.track is None else self.track.at(index, size)
        if self.past is None:
            if box is not None and (mark is None or mark.box is None):  # its marks are in other shots
                mark = Mark(box=box, points=mark.points if mark else ())
            if mark is None or not mark.begins:
                return []
            self.past = memory.new_past()
        if self._bounded and not min(self.marks) <= index <= max(self.marks):
            return []
        found = memory.find(self.past, index, mark)
        masks = [] if found is None else [found]
        if box is not None and (found is None or found.box.intersect(box) is None):
            masks.append(box_mask(index, box))  # an object to be removed must not stay
            self.boxed.add(index)
        return masks

    def before(self, memory: Memory, shot: tuple[int, int], read: Read) -> Iterator[FrameMask]:
        """The object in the frames of a shot before the first that it is marked on, the last of them first."""
        begins = [index for index, mark in self.marks.items() if shot[0] <= index < shot[1] and mark.begins]
        if begins and not self._bounded:
            yield from recall(memory, self.marks[min(begins)], min(begins), shot[0] - 1, read)

    def prompt(self, index: int, size: Size) -> Prompt | None:
        """What the object is prompted by without a memory."""
        if index in self.cuts:
            self.last = None
        mark = self.marks.get(index, Mark())
        if mark.begins:
            return Prompt(points=mark.points)
        return None if self.last is None else Prompt(box=grown(self.last, _FOLLOW_REACH, size), points=mark.points)

    @property
    def _bounded(self) -> bool:
        return self.track is not None and len(self.track.keys) > 1


def recall(
    memory: Memory, mark: Mark, index: int, stop: int, read: Read, patience: int | None = None
) -> Iterator[FrameMask]:
    """What `mark` marks on frame `index`, on the frames from there to `stop`, later or earlier, both left out.

    It ends when the object is lost for more than `patience` frames, if given; one that grows all at once is lost, too.
    """
    past, lost, area = memory.new_past(), 0, 0 if mark.mask is None else int(mark.mask.bits.sum())
    for number, rgb_HWC in _frames_between(index, stop, read):
        memory.see(rgb_HWC)
        mask = memory.find(past, number, mark if number == index else None, time=abs(number - index))
        if number == index:
            continue
        if mask is None or (patience is not None and 0 < _MOST_GROWTH * area < mask.bits.sum()):
            lost += 1
            if patience is not None and lost > patience:
                return
            continue
        lost, area = 0, int(mask.bits.sum())
        yield mask


def completed(track: Tracked, memory: Memory, shot: tuple[int, int], read: Read) -> Tracked:
    """A tracked object with what `memory` finds of it where the detector did not: in its gaps, before and after it."""
    seen, found = track.sightings, dict[int, Sighting]()
    for one, stop in ((seen[0], shot[0] - 1), *_gaps(seen), (seen[-1], shot[1])):
        for mask in recall(memory, Mark(mask=one.mask.unpack()), one.index, stop, read, MOST_GAP_FRAMES):
            again = replace(one, index=mask.index, confidence=0.0, box=mask.box, mask=PackedMask.of(mask))
            found.setdefault(mask.index, again)
    return replace(track, sightings=tuple(sorted([*seen, *found.values()], key=lambda one: one.index)))


def grown(box: Box, share: float, size: Size) -> Box:
    """`box` and `share` of its longer side around it, in the frame."""
    return box.pad(max(round(share * max(box.width, box.height)), 2)).clip(size) or box


def _gaps(seen: Iterable[Sighting]) -> Iterator[tuple[Sighting, int]]:
    """Between which sightings there may be something to fill, from both of its sides."""
    for before, after in pairwise(seen):
        yield before, after.index
        yield after, before.index


def _frames_between(index: int, stop: int, read: Read) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    if abs(stop - index) == 1:  # nothing but the marked one
        return
    if stop > index:
        yield from ((frame.index, frame.rgb()) for frame in read(index, stop))
        return
    for last in range(index + 1, stop + 1, -_HELD_FRAMES):
        held = [(frame.index, frame.rgb()) for frame in read(max(last - _HELD_FRAMES, stop + 1), last)]
        yield from reversed(held)
