"""Resize frames between source and model size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size

Image = NDArray[np.uint8]


def resize(image: Image, size: Size) -> Image:
    """Resize an image: area average to shrink, Lanczos to enlarge; an equal size returns the array itself."""
    height, width = image.shape[:2]
    if (width, height) == (size.width, size.height):
        return image
    shrinks = size.width * size.height < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=method), np.uint8)


def shrink_to(size: Size, longest_px: int) -> Size:
    """Shrink `size` in proportion until no side is longer than `longest_px`."""
    scale = min(1.0, longest_px / max(size.width, size.height))
    return Size(max(round(size.width * scale), 1), max(round(size.height * scale), 1))
