"""Crops of source and output round the mask of one frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.masks.store import Bits

RgbImage = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPair:
    """Source and output of one frame (H, W, 3; uint8), cropped to `box` round the mask, which is in output coordinates.

    `source` is None where the source has no such place or frame. `generated` marks the masked pixels that a model made,
    None where all of them may be.
    """

    index: int
    box: Box
    source: RgbImage | None
    output: RgbImage
    mask: Bits
    generated: Bits | None = None


def cut(crops: CropPair, box: Box, most_px: int) -> CropPair:
    """Crop to `box`, and shrink a crop of more than about `most_px` pixels."""
    inner = box.shift(-crops.box.x, -crops.box.y).slices
    source = None if crops.source is None else crops.source[inner]
    output = crops.output[inner]
    mask = crops.mask[inner]
    generated = None if crops.generated is None else crops.generated[inner]
    shrink = shrink_factor(box, most_px)
    if shrink > 1:
        source = None if source is None else shrunk(source, shrink)
        output = shrunk(output, shrink)
        mask = shrunk_bits(mask, shrink)
        generated = None if generated is None else shrunk_bits(generated, shrink)
    return CropPair(index=crops.index, box=box, source=source, output=output, mask=mask, generated=generated)


def shrink_factor(box: Box, most_px: int) -> int:
    """Return by how much a crop of `box` is shrunk to have about `most_px` pixels at most."""
    return max(1, round(float(np.sqrt(box.width * box.height / most_px))))


def shrunk(image: RgbImage, by: int) -> RgbImage:
    """Shrink an image (H, W, 3) by averaging pixels."""
    return np.asarray(cv2.resize(image, _size(image.shape, by), interpolation=cv2.INTER_AREA), np.uint8)


def shrunk_bits(bits: Bits, by: int) -> Bits:
    """Shrink bits (H, W): a pixel is set where at least half of its pixels were."""
    shares = cv2.resize(bits.astype(np.float32), _size(bits.shape, by), interpolation=cv2.INTER_AREA)
    return np.asarray(shares >= 0.5, np.bool_)


def _size(shape: tuple[int, ...], by: int) -> tuple[int, int]:
    return max(1, shape[1] // by), max(1, shape[0] // by)
