"""Put frames on a larger canvas and a longer timeline than their file's.

Native planes are moved, edges and ends are repeated. Added pixels and frames show the nearest sample of the source
until they are painted over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from av.video.reformatter import Interpolation

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.video.encoders import DEFAULT_RATE
from vace_batch.video.frame import Frame
from vace_batch.video.libav import converting
from vace_batch.video.planes import plane_layout, plane_view
from vace_batch.video.probe import VideoInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The output's picture size and length, and the place of the source in both.

    The source's picture lies at `source` on a picture of `size` (display px; offsets are multiples of 16); `kept` is
    the part of the source's picture that is known on every frame. `before` and `after` count frames added at the ends.
    """

    size: Size
    source: Box
    kept: Box
    before: int = 0
    after: int = 0

    @property
    def grows(self) -> bool:
        """Whether the output is larger or longer than the source."""
        return self.size != self.source.size or bool(self.before or self.after)

    @property
    def if_grown(self) -> Canvas | None:
        """This canvas if it is larger or longer than the source, else None."""
        return self if self.grows else None

    def info(self, info: VideoInfo) -> VideoInfo:
        """Describe the canvas to an encoder; the source's level says nothing about a larger picture."""
        stored = info.orientation.stored_box(Box(0, 0, self.size.width, self.size.height), self.size).size
        return replace(info, size=self.size, coded_size=stored, level=None)

    def lead_s(self, info: VideoInfo) -> Fraction:
        """Return by how much later the source's pictures, sound and labels begin."""
        return self.before / (info.average_rate or DEFAULT_RATE)


class CanvasFrames:
    """Moves the frames of a file to their canvas, numbered and timed from the first added frame."""

    def __init__(self, canvas: Canvas, info: VideoInfo) -> None:
        self._canvas = canvas
        self._time_base = info.time_base
        self._frame_s = 1 / (info.average_rate or DEFAULT_RATE)
        self._last: Frame | None = None

    def feed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Place frames of the file, in order, on the canvas; frames added before the first come first.

        Raises:
            ClipError: unsupported_pixel_format.
        """
        for frame in frames:
            if self._last is None:
                for index in range(self._canvas.before):
                    yield self._placed(frame, index, frame.pts + self._ticks(index))
            self._last = frame
            lead = self._canvas.before
            yield self._placed(frame, frame.index + lead, frame.pts + self._ticks(lead))

    def finish(self) -> Iterator[Frame]:
        """Yield the frames added after the last frame."""
        if self._last is not None:
            lead = self._canvas.before
            for count in range(1, self._canvas.after + 1):
                pts = self._last.pts + self._ticks(lead) + self._ticks(count)
                yield self._placed(self._last, self._last.index + lead + count, pts)

    def _ticks(self, frames: int) -> int:
        return round(frames * self._frame_s / self._time_base)

    def _placed(self, frame: Frame, index: int, pts: int) -> Frame:
        native = frame.native
        orientation = frame.orientation
        canvas = self._canvas
        layout = plane_layout(native.format.name)
        if layout is None:
            raise ClipError("unsupported_pixel_format", f"pixel format {native.format.name} cannot be put on a canvas")
        whole = orientation.stored_box(Box(0, 0, canvas.size.width, canvas.size.height), canvas.size)
        place = orientation.stored_box(canvas.source, canvas.size)
        # Scaled only to inherit the frame's properties; always a fresh buffer, as the decoder predicts from its own.
        with converting(native):
            grown = native.reformat(
                width=whole.width, height=whole.height, interpolation=Interpolation.POINT, threads=1
            )
            if grown is native:
                wider = native.reformat(width=whole.width + 16, interpolation=Interpolation.POINT, threads=1)
                grown = wider.reformat(width=whole.width, interpolation=Interpolation.POINT, threads=1)
        for plane in layout.planes:
            samples = plane_view(native, plane, layout.dtype)
            target = plane_view(grown, plane, layout.dtype)
            top = place.y >> plane.shift_y
            left = place.x >> plane.shift_x
            bottom = target.shape[0] - samples.shape[0] - top
            right = target.shape[1] - samples.shape[1] - left
            target[...] = np.pad(samples, ((top, bottom), (left, right), (0, 0)), mode="edge")
        return Frame(grown, index=index, pts=pts, orientation=orientation)
