"""Put generated frames back: cross-faded where windows overlap, scaled to their box, feathered into the source.

Shapes: THWC frames uint8 RGB; HW alpha float32 in 0..1. Outside the feathered mask no sample of a frame is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size
from vace_batch.masks.refine import at_least_token, feather_alpha
from vace_batch.masks.store import FrameMask
from vace_batch.plan import Region, Window, fade_weights
from vace_batch.video.frame import Frame

Image = NDArray[np.uint8]
OpenWindow = Callable[[Window], Iterator[Image]]


class RegionPatches:
    """The generated picture of one region, frame after frame; holds no more than the windows that overlap one frame."""

    def __init__(self, region: Region, windows: Sequence[Window], open_window: OpenWindow) -> None:
        self._region = region
        self._windows = sorted(windows, key=lambda window: window.start)
        self._open_window = open_window
        self._readers: dict[Window, _Reader] = {}

    def at(self, index: int) -> Image:
        """The patch (box.height, box.width, 3) of frame `index`; frames must be asked for in rising order.

        Raises:
            ValueError: no window holds the frame, or frames were asked for out of order.
        """
        holding = [window for window in self._windows if window.start <= index < window.stop]
        if not holding:
            raise ValueError(f"frame {index}: no window of region {self._region} holds it")
        for window in [window for window in self._readers if window not in holding]:
            del self._readers[window]
        blended = np.zeros((self._region.size.height, self._region.size.width, 3), np.float32)
        for window, weight in zip(holding, fade_weights(index, holding), strict=True):
            reader = self._readers.setdefault(window, _Reader(self._open_window(window), window.start))
            blended += weight * reader.at(index)
        return resize((blended + 0.5).astype(np.uint8), self._region.box.size)


class _Reader:
    """One window's frames, read forward."""

    def __init__(self, frames: Iterator[Image], start: int) -> None:
        self._frames = frames
        self._next = start

    def at(self, index: int) -> Image:
        if index < self._next:
            raise ValueError(f"frame {index}: expected {self._next} or later; windows are read forward")
        frame = next(self._frames)
        while self._next < index:
            frame = next(self._frames)
            self._next += 1
        self._next += 1
        return frame


def resize(image: Image, size: Size) -> Image:
    """`image` at `size`: area average to shrink, Lanczos to enlarge, the array itself when nothing changes."""
    height, width = image.shape[:2]
    if (width, height) == (size.width, size.height):
        return image
    shrinks = size.width * size.height < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=method), np.uint8)


def stitch_frame(
    frame: Frame,
    mask: FrameMask,
    regions: Mapping[int, Region],
    patches: Mapping[int, RegionPatches],
    feather_px: int,
) -> None:
    """Paste the regions that hold this frame into it, where its mask says so."""
    for number, region in regions.items():
        if not region.start <= mask.index < region.stop:
            continue
        grown = at_least_token(mask, frame.size, region.token_px)
        box = grown.box.pad(feather_px).intersect(region.box)
        if box is not None:
            patch = patches[number].at(mask.index)[box.shift(-region.box.x, -region.box.y).slices]
            frame.paste(box, patch, feather_alpha(grown.within(box), feather_px))
