"""Read source and output side by side in one pass: crops round the masks go to a meter, the rest is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.masks.store import Bits, FrameMask
from vace_batch.quality import measures
from vace_batch.quality.crops import CropPair
from vace_batch.quality.fill_meter import VIEW_PX
from vace_batch.quality.meter import RING_PX, Meter
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.frame import Frame
from vace_batch.video.read_ahead import CHUNK_FRAMES
from vace_batch.video.reader import read_frames

GAP_FRAMES = 24
"""Shorter pauses between masked frames are compared too; frames farther from any mask are not decoded."""

_MARGIN_PX = 4
"""Beside the feathering: a chroma sample covers pixels inside and outside the mask."""

RgbImage = npt.NDArray[np.uint8]
ReadMasks = Callable[[int, int], Mapping[int, FrameMask]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePair:
    """Frame `index` of a clip in source and output; `source` is None where the source has no such frame."""

    index: int
    source: Frame | None
    output: Frame

    def source_rgb(self) -> RgbImage | None:
        return None if self.source is None else self.source.rgb()

    def output_rgb(self) -> RgbImage:
        return self.output.rgb()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A finished clip beside its source, both local files; times of frames are in each file's own time base.

    `masks` is what was to change, `touched` all that may have been written to, each by ranges of the canvas's frames.
    `generated` is the part of the masks that a model made, where it is known; the rest was recovered from other frames.
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
    generated: ReadMasks | None = None

    def compare(self, masked: Iterable[int], meter: Meter) -> None:
        """Give the frames numbered `masked`, in rising order, and the frames near them to `meter`.

        Raises:
            ClipError: a file cannot be read, or has fewer frames.
        """
        for span in compared_spans(masked, self.num_frames):
            masks: Mapping[int, FrameMask] = {}
            allowed: list[Mapping[int, FrameMask]] = []
            for pair in self.pairs(span):
                index = pair.index
                if (index - span.start) % CHUNK_FRAMES == 0:
                    chunk = index, min(index + CHUNK_FRAMES, span.stop)
                    masks, allowed = self.masks(*chunk), [read(*chunk) for read in self.touched]
                touched = [each[index] for each in (masks, *allowed) if index in each]
                if index in masks:
                    view = self._view(pair, masks[index]) if meter.wants_view else None
                    meter.add(self._crop_pair(pair, masks[index], RING_PX), view)
                if pair.source is not None:
                    meter.add_outside(self._change(pair.source, pair.output, touched))

    def pairs(self, span: range) -> Iterator[FramePair]:
        """Read the frames of a span in source and output.

        Raises:
            ClipError: a file cannot be read, or has fewer frames.
        """
        outputs = read_frames(self.output, span.start, span.stop, start_pts=_at(self.output_pts, span.start))
        for index, source in zip(span, self._source_frames(span), strict=True):
            output = next(outputs, None)
            if output is None:
                raise ClipError("frames_missing", f"the output ends before frame {index} of {self.num_frames}")
            yield FramePair(index=index, source=source, output=output)

    def frame_pair(self, index: int) -> tuple[RgbImage | None, RgbImage, FrameMask]:
        """Read one masked frame, uncropped: source (None where the source has no such frame), output, mask.

        Raises:
            ClipError: as `compare`.
        """
        pair = next(self.pairs(range(index, index + 1)))
        return pair.source_rgb(), pair.output_rgb(), self.masks(index, index + 1)[index]

    def touched_bits(self, index: int) -> Bits:
        """Mark the pixels of a source's frame (H, W) that may differ in the output, with the margin of an edge."""
        span = index, index + 1
        masks = (read(*span).get(index) for read in (self.masks, *self.touched))
        return self._allowed([mask for mask in masks if mask is not None])

    def _source_frames(self, span: range) -> Iterator[Frame | None]:
        """Read the source's frame for each frame of the span; None where the source has none."""
        start = self._source_index(span.start)
        stop = self._source_index(span.stop)
        frames = read_frames(self.source, start, stop, start_pts=_at(self.source_pts, start))
        for index in span:
            yield next(frames, None) if start <= index - self.canvas.before < stop else None

    def _source_index(self, index: int) -> int:
        """Turn a frame's index on the canvas into one of the source, kept within the source."""
        return max(0, min(index - self.canvas.before, len(self.source_pts)))

    def _crop_pair(self, pair: FramePair, mask: FrameMask, ring_px: int) -> CropPair:
        """Crop a masked frame of source and output to the mask and its ring."""
        source, output = pair.source, pair.output
        box = mask.box.pad(ring_px).clip(output.size)
        assert box is not None, "a mask lies in its frame"
        source_box = box.shift(-self.canvas.source.x, -self.canvas.source.y)
        shown = (
            source is not None and Box(0, 0, source.size.width, source.size.height).intersect(source_box) == source_box
        )
        return CropPair(
            index=mask.index,
            box=box,
            source=source.rgb(source_box) if source is not None and shown else None,
            output=output.rgb(box),
            mask=mask.within(box),
        )

    def _view(self, pair: FramePair, mask: FrameMask) -> CropPair:
        """Crop a masked frame to wide surroundings, with the generated pixels where they are known."""
        view = self._crop_pair(pair, mask, VIEW_PX)
        if self.generated is None:
            return view
        hole = self.generated(mask.index, mask.index + 1).get(mask.index)
        generated = np.zeros_like(view.mask) if hole is None else hole.within(view.box)
        return replace(view, generated=generated)

    def _change(self, source: Frame, output: Frame, touched: Sequence[FrameMask]) -> float:
        """Measure the largest change of brightness outside the masks, in levels."""
        shown = output.gray()[self.canvas.source.slices]
        return measures.block_change(source.gray(), shown, self._allowed(touched))

    def _allowed(self, touched: Sequence[FrameMask]) -> Bits:
        """Mark the pixels of the source's place in which a change is allowed."""
        place = self.canvas.source
        allowed = np.zeros((place.height, place.width), np.bool_)
        for mask in touched:
            allowed |= mask.within(place)
        return _widened(allowed, self.feather_px + _MARGIN_PX)


def compared_spans(masked: Iterable[int], num_frames: int) -> Iterator[range]:
    """List the spans of a clip to compare: masked frames, short pauses between them and some frames around.

    `list(compared_spans([5, 6, 60], 100)) == [range(0, 19), range(48, 73)]`
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
    """Look up a frame's time; None where the file has no times, and is then read from its start."""
    return times[index] if index < len(times) else None


def _widened(bits: Bits, px: int) -> Bits:
    """Dilate a mask by `px` pixels."""
    side = 2 * px + 1
    return cv2.dilate(bits.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)
