"""Blend a region's generated windows into one picture per source frame, and share a mask out over regions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np

from vace_batch.geometry import Box
from vace_batch.masks.refine import split_parts
from vace_batch.masks.store import FrameMask, merge_masks
from vace_batch.planning.stills import Still
from vace_batch.planning.windows import Region, Window, fade_weights
from vace_batch.stitch.colour import Change, Colour
from vace_batch.video.scaling import Image, resize

OpenWindow = Callable[[Window], Iterator[Image]]


class RegionPatches:
    """The generated pictures of one region, frame after frame; holds only the windows that overlap one frame."""

    def __init__(
        self,
        region: Region,
        windows: Sequence[Window],
        open_window: OpenWindow,
        stills: Sequence[tuple[Still, Window]] = (),
    ) -> None:
        self.region = region
        self._windows = sorted(windows, key=lambda window: window.start)
        self._open_window = open_window
        self._stills = stills
        self._readers: dict[Window, _Reader] = {}
        self._painted: tuple[Still, Colour] | None = None
        self._seen: tuple[int, Box, Image] | None = None

    def reach(self, index: int) -> Box | None:
        """Return the box that every window, or still picture, of frame `index` shows; None without a window."""
        reach: Box | None = None
        for window in [*self._holding(index), *(window for _, window in self._still(index))]:
            reach = window.box if reach is None else reach.intersect(window.box)
        return reach

    def at(self, index: int, box: Box) -> Colour:
        """Return the generated pixels of `box` in frame `index`, (h, w, 3) float32; quick in rising order of frames.

        Raises:
            ValueError: no window holds the box in this frame.
        """
        reach = self.reach(index)
        if not _holds(reach, box):
            raise ValueError(f"frame {index}, {box}: no window of {self.region} holds it")
        for still, window in self._still(index):
            weight = still.weight(index)
            picture = self._picture(still, window)[box.slices_in(window.box)]
            return picture if weight == 1 else weight * picture + (1 - weight) * self._moving(index, box)
        return self._moving(index, box)

    def change(self, index: int, box: Box, source: Image) -> Change:
        """Return the change of `source`, `box` of frame `index`, since the frame before, where that was seen."""
        levels = np.zeros(source.shape, np.float32)
        known = np.zeros(source.shape[:2], np.bool_)
        before = self._seen
        self._seen = (index, box, source)
        common = before[1].intersect(box) if before is not None and before[0] == index - 1 else None
        if before is not None and common is not None:
            here = common.slices_in(box)
            levels[here] = source[here].astype(np.float32) - before[2][common.slices_in(before[1])]
            known[here] = True
        return Change(levels=levels, known=known)

    def _moving(self, index: int, box: Box) -> Colour:
        holding = self._holding(index)
        for window in [window for window in self._readers if window not in holding]:
            del self._readers[window]
        blended = np.zeros((box.height, box.width, 3), np.float32)
        for window, weight in zip(holding, fade_weights(index, holding), strict=True):
            reader = self._readers.get(window)
            if reader is None or reader.is_past(index):
                reader = self._readers[window] = _Reader(self._open_window(window), window.start)
            picture = resize(reader.at(index), self.region.crop)
            blended += weight * picture[box.slices_in(window.box)]
        return blended

    def _holding(self, index: int) -> list[Window]:
        after = bisect_right(self._windows, index, key=lambda window: window.start)
        holding = takewhile(lambda window: index < window.stop, (self._windows[n] for n in range(after - 1, -1, -1)))
        return list(holding)[::-1]

    def _still(self, index: int) -> list[tuple[Still, Window]]:
        """Return the still picture that frame `index` shows, or an empty list; still pictures never overlap."""
        after = bisect_right(self._stills, index, key=lambda pair: pair[0].spans[0].start)
        return [pair for pair in self._stills[max(0, after - 1) : after] if pair[0].weight(index) > 0]

    def _picture(self, still: Still, window: Window) -> Colour:
        """Average the frames of a window that show the still picture in full: (h, w, 3) float32, its box."""
        if self._painted is None or self._painted[0] is not still:
            frames = zip(range(window.start, window.stop), self._open_window(window), strict=False)
            shown = [resize(frame, self.region.crop) for index, frame in frames if still.weight(index) == 1]
            self._painted = still, np.mean(shown, axis=0, dtype=np.float32)
        return self._painted[1]


class _Reader:
    """Reads one window's frames forward."""

    def __init__(self, frames: Iterator[Image], start: int) -> None:
        self._frames = frames
        self._next = start

    def is_past(self, index: int) -> bool:
        return index < self._next

    def at(self, index: int) -> Image:
        frame = next(self._frames)
        while self._next < index:
            frame = next(self._frames)
            self._next += 1
        self._next += 1
        return frame


def share_out(mask: FrameMask, patches: Sequence[RegionPatches]) -> Mapping[int, FrameMask]:
    """Assign each connected part of a frame's mask to the finest region that shows all of it."""
    reaches = {number: region.reach(mask.index) for number, region in enumerate(patches)}
    shares: dict[int, list[FrameMask]] = {}
    for part in split_parts(mask):
        fits = [number for number, reach in reaches.items() if _holds(reach, part.box)]
        if not fits:
            raise ValueError(f"frame {mask.index}, {part.box}: no window holds this part of the mask")
        best = min(fits, key=lambda n: (patches[n].region.token_px, n))
        shares.setdefault(best, []).append(part)
    merged = {number: merge_masks(parts) for number, parts in shares.items()}
    return {number: joined for number, joined in merged.items() if joined is not None}


def _holds(reach: Box | None, box: Box) -> bool:
    return reach is not None and reach.intersect(box) == box
