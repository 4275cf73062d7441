"""Reuse still pictures: where camera and scene stand still, one generated window serves all frames.

Such frames have no flicker and no seam in time, and need no second window. Pure functions. Frames count on the canvas,
ranges are half-open, boxes are in display pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

from vace_batch.geometry import Box
from vace_batch.planning.windows import Region, Window, WindowLimits, shrunk

_FADE_FRAMES = 4
_LEAST_FRAMES = 5
"""A window that shows fewer frames of a still picture is not reused: the mean of so few frames gains nothing."""


@dataclass(slots=True)
class StillSegments:
    """The segments of a clip in which the camera stands still, and the holes in them beside which something moves.

    `segments` are (start, stop) frames in which a hole keeps its place in the scene. `restless` holds, for each judged
    frame, the boxes of the holes with motion beside them; a frame without an entry was not judged.
    """

    segments: list[tuple[int, int]] = field(default_factory=list)
    restless: dict[int, tuple[Box, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Frames start..stop-1 that show a still picture, which fades in or out where motion precedes or follows."""

    start: int
    stop: int
    fades_in: bool
    fades_out: bool

    def weight(self, index: int) -> float:
        """Return the share of the still picture in frame `index`, 0 to 1."""
        if not self.start <= index < self.stop:
            return 0.0
        into = index - self.start + 1 if self.fades_in else _FADE_FRAMES
        out = self.stop - index if self.fades_out else _FADE_FRAMES
        return min(1.0, into / _FADE_FRAMES, out / _FADE_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A region's still picture: the mean of the frames of `spans` in one window.

    `window` is the window's index among the clip's windows.
    """

    region: int
    window: int
    spans: tuple[Span, ...]

    def weight(self, index: int) -> float:
        """Return the share of the still picture in frame `index`, 0 to 1."""
        return max(span.weight(index) for span in self.spans)


def reuse_stills(
    stillness: StillSegments,
    parts: Mapping[int, Sequence[Box]],
    regions: Sequence[Region],
    windows: Sequence[Window],
    limits: WindowLimits,
) -> tuple[tuple[Still, ...], tuple[Region, ...], tuple[Window, ...]]:
    """Replace windows by still pictures where possible.

    `parts` are the boxes of the holes in each frame. Returns the still pictures, the regions, and the windows that are
    still needed. A region whose frames are all still is resized to the scale at which the model paints such holes well.
    """
    masked_frames = sorted(parts)
    windows_of: dict[int, list[Window]] = defaultdict(list)
    for window in windows:
        windows_of[window.region].append(window)
    reuses = []
    for number, region in enumerate(regions):
        frames = _between(masked_frames, region.start, region.stop)
        holes = _region_holes(stillness, parts, frames, windows_of[number])
        reuses.append(_reuse_in(region, windows_of[number], holes, stillness.segments, limits))
    unneeded = set(chain.from_iterable(reuse.unneeded for reuse in reuses))
    needed = tuple(window for window in windows if window not in unneeded)
    chosen = chain.from_iterable(reuse.stills for reuse in reuses)
    stills = [Still(region=window.region, window=needed.index(window), spans=spans) for window, spans in chosen]
    return tuple(stills), tuple(reuse.region for reuse in reuses), needed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reuse:
    """The still pictures of one region: the window of each with its spans, and the windows that they make unneeded.

    `region` is resized if all its frames are still.
    """

    region: Region
    stills: list[tuple[Window, tuple[Span, ...]]]
    unneeded: set[Window]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RegionHoles:
    """The boxes of the holes that the windows of a region show, by rising frame; `restless` frames have motion."""

    boxes: dict[int, list[Box]]
    restless: set[int]


def _region_holes(
    stillness: StillSegments, parts: Mapping[int, Sequence[Box]], frames: Sequence[int], windows: Sequence[Window]
) -> _RegionHoles:
    """Collect the holes that a region's `windows` show in `frames`; a frame that was not judged counts as restless."""
    boxes: dict[int, list[Box]] = {}
    restless: set[int] = set()
    for t, reach in _reach(frames, windows).items():
        holes = _touching(parts[t], reach)
        if not holes:
            continue
        boxes[t] = holes
        if t not in stillness.restless or _touching(stillness.restless[t], reach):
            restless.add(t)
    return _RegionHoles(boxes=boxes, restless=restless)


def _reuse_in(
    region: Region,
    windows: Sequence[Window],
    holes: _RegionHoles,
    segments: Sequence[tuple[int, int]],
    limits: WindowLimits,
) -> _Reuse:
    """Replace windows of one region by still pictures where possible."""
    frames = list(holes.boxes)
    stills = list(_region_stills(segments, frames, holes.restless, windows))
    full = {t for _, spans in stills for t in _full(frames, spans)}
    shown = {window for window, _ in stills}
    unneeded = {w for w in windows if w not in shown and full.issuperset(_between(frames, w.start, w.stop))}
    if full and full == holes.boxes.keys():
        region = _at_painting_size(region, chain.from_iterable(holes.boxes.values()), limits)
    return _Reuse(region=region, stills=stills, unneeded=unneeded)


def _at_painting_size(region: Region, holes: Iterable[Box], limits: WindowLimits) -> Region:
    """Shrink a region until the model paints its widest hole well."""
    widest_px = max(min(box.width, box.height) for box in holes) * region.size.width / region.crop.width
    if limits.widest_hole_px is None or widest_px <= limits.widest_hole_px:
        return region
    return replace(region, size=shrunk(region.size, limits.widest_hole_px / widest_px))


def _between(frames: Sequence[int], start: int, stop: int) -> Sequence[int]:
    """Slice the rising `frames` to start..stop-1.

    By bisection: a film has 200,000 frames and thousands of windows.
    """
    return frames[bisect_left(frames, start) : bisect_left(frames, stop)]


def _reach(frames: Sequence[int], windows: Sequence[Window]) -> dict[int, list[Box]]:
    """Collect for each of `frames`, in order, the boxes of the windows that show the frame."""
    reach: dict[int, list[Box]] = {t: [] for t in frames}
    for window in windows:
        for t in _between(frames, window.start, window.stop):
            reach[t].append(window.box)
    return reach


def _touching(boxes: Sequence[Box], reach: Sequence[Box]) -> list[Box]:
    """Select the boxes that overlap one of `reach`."""
    return [box for box in boxes if any(box.intersect(each) is not None for each in reach)]


def _region_stills(
    segments: Sequence[tuple[int, int]], frames: Sequence[int], restless: set[int], windows: Sequence[Window]
) -> Iterator[tuple[Window, tuple[Span, ...]]]:
    """Choose for each segment with still frames the window that shows most of them; yield it with its spans."""
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
    """Select the frames that show only the still picture, without a fade."""
    return [t for span in spans for t in _between(frames, span.start, span.stop) if span.weight(t) == 1]


def _spans(inside: Sequence[int], restless: set[int], frames: Sequence[int]) -> Iterator[Span]:
    """Group the still frames of a segment into spans; a span fades unless `frames` begin or end with it."""
    for moves, run in groupby(inside, key=restless.__contains__):
        if not moves:
            still = list(run)
            first = still[0]
            last = still[-1]
            yield Span(start=first, stop=last + 1, fades_in=first != frames[0], fades_out=last != frames[-1])
