"""Frames with a known truth for tests of quality: a disc over a panning texture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask, make_mask

SIZE = Size(160, 128)


NUM_FRAMES = 12


def textured(seed: int = 3) -> Any:
    noise = np.random.default_rng(seed).uniform(-127, 127, (SIZE.height, SIZE.width + 40, 3)).astype(np.float32)
    return 110 + cv2.GaussianBlur(noise, (0, 0), 1.2) * 0.4 + cv2.GaussianBlur(noise, (0, 0), 10) * 3


def pictures(index: int) -> tuple[Any, Any, FrameMask]:
    """Source, truth and mask of one frame: a patterned disc that goes over a ground that pans by a pixel a frame."""
    truth = textured()[:, index : index + SIZE.width]
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    near = (x - 60 - 2 * index) ** 2 + (y - 62) ** 2
    source = np.where((near < 22**2)[..., None], [200.0, 40.0, 30.0] + 30 * np.sin(x / 3)[..., None], truth)
    mask = make_mask(index, near < 27**2)
    assert mask is not None
    return source, truth, mask
