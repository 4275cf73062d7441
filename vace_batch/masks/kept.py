"""Stored masks in forms that other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from vace_batch.geometry import Size
from vace_batch.masks.coco import as_coco
from vace_batch.masks.store import Bits, FrameMask, MaskReader, write_masks
from vace_batch.video.masks import write_mask_video

SUFFIXES = {"ffv1": ".mkv", "png": "", "coco": ".json", "parquet": ".parquet"}
"""What each form's file ends in; png is a folder."""

DEFAULT_RATE = Fraction(25)

_CHUNK_FRAMES = 64


def write_kept(reader: MaskReader, num_frames: int, rate: Fraction | None, target: str, form: str) -> None:
    """Write stored masks to the local path `target` as `form`, one of `SUFFIXES`; `rate` is a video's."""
    if form == "ffv1":
        write_mask_video(
            target, (_full(mask, reader.size) for mask in every_mask(reader, num_frames)), rate or DEFAULT_RATE
        )
    elif form == "png":
        Path(target).mkdir(parents=True, exist_ok=True)
        for index, mask in enumerate(every_mask(reader, num_frames)):
            Image.fromarray(_full(mask, reader.size)).save(Path(target, f"{index:06d}.png"))
    elif form == "coco":
        masks = (mask for mask in every_mask(reader, num_frames) if mask is not None)
        Path(target).write_text(json.dumps(as_coco(Path(target).stem, reader.size, num_frames, masks)))
    else:
        write_masks(target, reader.size, (mask for mask in every_mask(reader, num_frames) if mask is not None))


def every_mask(reader: MaskReader, num_frames: int) -> Iterator[FrameMask | None]:
    """The mask of each frame of a video of `num_frames`, in order."""
    for start in range(0, num_frames, _CHUNK_FRAMES):
        stop = min(start + _CHUNK_FRAMES, num_frames)
        masks = reader.get(start, stop)
        yield from (masks.get(index) for index in range(start, stop))


def _full(mask: FrameMask | None, size: Size) -> Bits:
    return np.zeros((size.height, size.width), np.bool_) if mask is None else mask.full(size)
