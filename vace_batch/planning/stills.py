"""Where nothing moves, what one window paints serves all frames: no flicker, no seam in time, and no second window.

Pure functions; frames count as in the plan, ranges are half-open, boxes are in display pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from vace_batch.geometry import Box
from vace_batch.planning.windows import Limits, Region, Window, shrunk

_FADE_FRAMES = 4
_LEAST_FRAMES = 5
"""A window shows fewer frames of a still picture than this: their mean is no better than they are."""


@dataclass(slots=True)
class StillSegments:
    """Which holes lie in a picture that stands still.

    `segments`: frames in which a hole is at the same place of the scene; `restless`: for each of their frames with
    holes, the boxes of those beside which something moves.
    """

    segments: list[tuple[int, int]] = field(default_factory=list)
    restless: dict[int, tuple[Box, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Frames start..stop-1 of a still picture; it fades in or out where the picture moves before or after them."""

    start: int
    stop: int
    fades_in: bool
    fades_out: bool

    def weight(self, index: int) -> float:
        """How much of frame `index` is the still picture, 0 to 1."""
        if not self.start <= index < self.stop:
            return 0.0
        into = index - self.start + 1 if self.fades_in else _FADE_FRAMES
        out = self.stop - index if self.fades_out else _FADE_FRAMES
        return min(1.0, into / _FADE_FRAMES, out / _FADE_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A region's still picture: the mean of what `window`, its place among the clip's windows, shows of `spans`."""

    region: int
    window: int
    spans: tuple[Span, ...]

    def weight(self, index: int) -> float:
        """How much of frame `index` is the still picture, 0 to 1."""
        return max(span.weight(index) for span in self.spans)


def reuse_stills(
    stillness: StillSegments,
    parts: Mapping[int, Sequence[Box]],
    regions: Sequence[Region],
    windows: Sequence[Window],
    limits: Limits,
) -> tuple[tuple[Still, ...], tuple[Region, ...], tuple[Window, ...]]:
    """The still pictures of a clip, its regions, and those of its windows that are needed beside them.

    `parts` are the boxes of the holes in every frame. A region that is nothing but still is shown to the model at the
    scale at which it paints such holes well.
    """
    chosen: list[tuple[Window, tuple[Span, ...]]] = []
    unneeded: set[Window] = set()
    sized = list(regions)
    masked_frames = sorted(parts)
    windows_of = defaultdict(list)
    for window in windows:
        windows_of[window.region].append(window)
    for number, region in enumerate(regions):
        region_windows = windows_of[number]
        reach = _reach(_between(masked_frames, region.start, region.stop), region_windows)
        holes = {t: boxes for t in reach if (boxes := _touching(parts[t], reach[t]))}
        restless = {t for t in holes if t not in stillness.restless or _touching(stillness.restless[t], reach[t])}
        frames = list(holes)
        stills = list(_region_stills(stillness.segments, frames, restless, region_windows))
        full = {t for _, spans in stills for t in _full(frames, spans)}
        shown = {window for window, _ in stills}
        chosen += stills
        unneeded |= {w for w in region_windows if w not in shown and full.issuperset(_between(frames, w.start, w.stop))}
        if full and full == holes.keys():
            sized[number] = _at_painting_size(region, [box for boxes in holes.values() for box in boxes], limits)
    needed = tuple(window for window in windows if window not in unneeded)
    result = (Still(region=window.region, window=needed.index(window), spans=spans) for window, spans in chosen)
    return tuple(result), tuple(sized), needed


def _at_painting_size(region: Region, holes: Iterable[Box], limits: Limits) -> Region:
    widest_px = max(min(box.width, box.height) for box in holes) * region.size.width / region.crop.width
    if limits.widest_hole_px is None or widest_px <= limits.widest_hole_px:
        return region
    return replace(region, size=shrunk(region.size, limits.widest_hole_px / widest_px))


def _between(frames: Sequence[int], start: int, stop: int) -> Sequence[int]:
    """Those of the rising `frames` that lie in start..stop-1; a film has 200,000, and windows by the thousand."""
    return frames[bisect_left(frames, start) : bisect_left(frames, stop)]


def _reach(frames: Sequence[int], windows: Sequence[Window]) -> dict[int, list[Box]]:
    """For each of `frames`, in their order, the boxes of the windows that hold it."""
    reach: dict[int, list[Box]] = {t: [] for t in frames}
    for window in windows:
        for t in _between(frames, window.start, window.stop):
            reach[t].append(window.box)
    return reach


def _touching(boxes: Sequence[Box], reach: Sequence[Box]) -> list[Box]:
    return [box for box in boxes if any(box.intersect(each) is not None for each in reach)]


def _region_stills(
    segments: Sequence[tuple[int, int]], frames: Sequence[int], restless: set[int], windows: Sequence[Window]
) -> Iterator[tuple[Window, tuple[Span, ...]]]:
    """For each segment with still frames, the window that shows most of them, and the spans."""
    for start, stop in segments:
        inside = _between(frames, start, stop)
        spans = [span for span in _spans(inside, restless, frames) if _full(inside, [span])]
        if not spans:
            continue
        full = _full(inside, spans)
        shown = [len(_between(full, window.start, window.stop)) for window in windows]
        if max(shown) >= _LEAST_FRAMES:
            yield windows[shown.index(max(shown))], tuple(spans)


def _full(frames: Sequence[int], spans: Iterable[Span]) -> list[int]:
    """Those of `frames` that show nothing but the still picture."""
    return [t for span in spans for t in _between(frames, span.start, span.stop) if span.weight(t) == 1]


def _spans(inside: Sequence[int], restless: set[int], frames: Sequence[int]) -> Iterator[Span]:
    """Runs of the frames of a segment that are not restless; they fade unless `frames` begin or end with them."""
    for moves, run in groupby(inside, key=restless.__contains__):
        if not moves:
            still = list(run)
            first = still[0]
            last = still[-1]
            yield Span(start=first, stop=last + 1, fades_in=first != frames[0], fades_out=last != frames[-1])
