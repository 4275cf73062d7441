"""One pass over source and output side by side: what is round the masks goes to a meter, what is elsewhere compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.quality import measures
from vace_batch.quality.meter import RING_PX, Meter, Sight
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.frame import Frame
from vace_batch.video.read_ahead import CHUNK_FRAMES
from vace_batch.video.reader import read_frames

GAP_FRAMES = 24
"""Shorter pauses between masked frames are watched through; what lies farther from any mask is not decoded."""

_MARGIN_PX = 4
"""Beside the feathering: chroma samples cover a pixel inside and one outside."""

Image = npt.NDArray[np.uint8]
ReadMasks = Callable[[int, int], Mapping[int, FrameMask]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A finished clip beside its source, both local; times of frames are in each file's own time base.

    `masks` is what was to change, `touched` all that may have been written to, each by ranges of the canvas's frames.
    """

    source: str
    output: str
    source_pts: Sequence[int | None]
    output_pts: Sequence[int | None]
    canvas: Canvas
    num_frames: int
    masks: ReadMasks
    touched: Sequence[ReadMasks]
    feather_px: int = 2

    def watch(self, masked: Iterable[int], meter: Meter) -> None:
        """Show the frames numbered `masked`, in rising order, and what is near them to `meter`.

        Raises:
            ClipError: a file cannot be read, or one of them has fewer frames.
        """
        for span in spans(masked, self.num_frames):
            sources = self._source_frames(span)
            outputs = read_frames(self.output, span.start, span.stop, start_pts=_at(self.output_pts, span.start))
            masks: Mapping[int, FrameMask] = {}
            allowed: list[Mapping[int, FrameMask]] = []
            for index in span:
                if (index - span.start) % CHUNK_FRAMES == 0:
                    chunk = index, min(index + CHUNK_FRAMES, span.stop)
                    masks, allowed = self.masks(*chunk), [read(*chunk) for read in self.touched]
                output, source = next(outputs, None), next(sources)
                if output is None:
                    raise ClipError("frames_missing", f"the output ends before frame {index} of {self.num_frames}")
                touched = [found for each in (masks, *allowed) if (found := each.get(index)) is not None]
                if index in masks:
                    meter.add(self._sight(source, output, masks[index]))
                if source is not None:
                    meter.add_outside(self._change(source, output, touched))

    def still(self, index: int) -> tuple[Image | None, Image, FrameMask]:
        """One masked frame alone, all of it: source (None where there is none), output, mask.

        Raises:
            ClipError: as `watch`.
        """
        output = next(read_frames(self.output, index, index + 1, start_pts=_at(self.output_pts, index)), None)
        if output is None:
            raise ClipError("frames_missing", f"the output ends before frame {index} of {self.num_frames}")
        source = next(self._source_frames(range(index, index + 1)))
        return None if source is None else source.rgb(), output.rgb(), self.masks(index, index + 1)[index]

    def _source_frames(self, span: range) -> Iterator[Frame | None]:
        """The source's frame for each of the span, None where it has none."""
        start, stop = (max(0, min(at - self.canvas.before, len(self.source_pts))) for at in (span.start, span.stop))
        frames = read_frames(self.source, start, stop, start_pts=_at(self.source_pts, start))
        for index in span:
            yield next(frames, None) if start <= index - self.canvas.before < stop else None

    def _sight(self, source: Frame | None, output: Frame, mask: FrameMask) -> Sight:
        box = mask.box.pad(RING_PX).clip(output.size)
        assert box is not None, "a mask lies in its frame"
        there = box.shift(-self.canvas.source.x, -self.canvas.source.y)
        shown = source is not None and Box(0, 0, source.size.width, source.size.height).intersect(there) == there
        return Sight(
            index=mask.index,
            box=box,
            source=source.rgb(there) if source is not None and shown else None,
            output=output.rgb(box),
            mask=mask.within(box),
        )

    def _change(self, source: Frame, output: Frame, touched: Sequence[FrameMask]) -> float:
        place = self.canvas.source
        allowed = np.zeros((place.height, place.width), np.bool_)
        for mask in touched:
            allowed |= mask.within(place)
        shown = output.gray()[place.slices]
        return measures.block_change(source.gray(), shown, _widened(allowed, self.feather_px + _MARGIN_PX))


def spans(masked: Iterable[int], num_frames: int) -> Iterator[range]:
    """The stretches of a clip that are looked at: masked frames, short pauses between them and some frames around.

    `list(spans([5, 6, 60], 100)) == [range(0, 19), range(48, 73)]`
    """
    start = stop = None
    for index in masked:
        if stop is not None and start is not None and index > stop + GAP_FRAMES:
            yield range(start, stop)
            start = None
        start = max(0, index - GAP_FRAMES // 2) if start is None else start
        stop = min(num_frames, index + 1 + GAP_FRAMES // 2)
    if start is not None and stop is not None:
        yield range(start, stop)


def _at(times: Sequence[int | None], index: int) -> int | None:
    """None, where a file does not tell: then it is read from its start."""
    return times[index] if index < len(times) else None


def _widened(bits: Bits, px: int) -> Bits:
    side = 2 * px + 1
    return cv2.dilate(bits.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)
