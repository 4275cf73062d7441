"""Find static overlays, such as logos and watermarks: pixels that stand still while the picture under them moves.

Shape suffixes: H, W are the rows and columns of the shrunk frame.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.video.frame import Frame
from vace_batch.video.scaling import shrink_to

OVERLAY = "@overlay"
"""The name of static overlays in a job's `targets`."""

_LONGEST_PX = 640
_MOST_FRAMES = 150
_LEAST_FRAMES = 8
_LEAST_GRADIENT = 24.0  # of a Sobel filter, in gray levels
_STEADY = 0.85  # the mean gradient's length as a share of the gradients' mean length: 1 where nothing changes
_MOST_OF_FRAME, _LEAST_OF_FRAME = 0.2, 0.0001
_BRIDGED_PX = 9

Floats = npt.NDArray[np.float32]


def find_overlay(frames: Iterable[Frame], num_frames: int, size: Size) -> FrameMask | None:
    """Return the mask of pixels that stand still in all of `num_frames` frames of a video of `size`; None without any.

    A pixel stands still if its gradient keeps its direction: the mean gradient's length is near the gradients' mean
    length.

    Raises:
        ClipError: `nothing_moves`, overlay and picture cannot be told apart; mark the overlay by `boxes`.
    """
    small = shrink_to(size, _LONGEST_PX)
    every = max(1, num_frames // _MOST_FRAMES)
    total = np.zeros((2, small.height, small.width), np.float32)
    lengths = np.zeros((small.height, small.width), np.float32)
    count = 0
    for frame in frames:
        if frame.index % every:
            continue
        gradient = _gradient(frame, small)
        total += gradient
        lengths += np.hypot(*gradient)
        count += 1
    if count < _LEAST_FRAMES:
        raise ClipError("nothing_moves", f"targets: {OVERLAY} needs at least {_LEAST_FRAMES} frames, got {count}")
    steady = (lengths > _LEAST_GRADIENT * count) & (np.hypot(*total) > _STEADY * lengths)
    bits = _areas(steady)
    if bits.mean() > _MOST_OF_FRAME:
        reason = f"targets: {OVERLAY}: {bits.mean():.0%} of the picture stands still; mark the overlay by boxes"
        raise ClipError("nothing_moves", reason)
    full = cv2.resize(bits.view(np.uint8), (size.width, size.height), interpolation=cv2.INTER_NEAREST)
    return make_mask(0, np.asarray(full, np.uint8).astype(np.bool_))


def _gradient(frame: Frame, small: Size) -> Floats:
    """Return the Sobel gradient (2, H, W) of the shrunk frame, in gray levels."""
    gray = cv2.cvtColor(frame.small(small), cv2.COLOR_RGB2GRAY)
    return np.stack([cv2.Sobel(gray, cv2.CV_32F, *axis, scale=0.25) for axis in ((1, 0), (0, 1))]).astype(np.float32)


def _areas(steady_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Join and fill outlines to areas (H, W); drop specks."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_BRIDGED_PX, _BRIDGED_PX))
    joined = cv2.morphologyEx(steady_HW.view(np.uint8), cv2.MORPH_CLOSE, kernel)
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas = np.zeros(steady_HW.shape, np.uint8)
    for contour in contours:
        if cv2.contourArea(contour) >= _LEAST_OF_FRAME * steady_HW.size:
            cv2.drawContours(canvas, [contour], -1, 1, cv2.FILLED)
    # Gradients lie on both sides of an edge, so the area grows by one pixel.
    return np.asarray(cv2.dilate(canvas, np.ones((3, 3), np.uint8)), np.uint8).astype(np.bool_)
