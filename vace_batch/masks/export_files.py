"""Export stored masks for other tools: FFV1 video, PNG folder, COCO run-length JSON, Parquet."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from vace_batch.geometry import Size
from vace_batch.masks.coco import as_coco, encode
from vace_batch.masks.store import Bits, FrameMask, MaskReader, write_masks
from vace_batch.storage import files as storage
from vace_batch.video.encoders import DEFAULT_RATE
from vace_batch.video.mask_video import write_mask_video
from vace_batch.video.read_ahead import CHUNK_FRAMES

SUFFIXES = {"ffv1": ".mkv", "png": "", "coco": ".json", "parquet": ".parquet"}
"""Each form's file suffix; png is a folder."""

INLINE_BYTES = 64 << 10
"""Longer run-length codes are left out of a clip's result."""


def export_masks(reader: MaskReader, num_frames: int, rate: Fraction | None, form: str, uri: str, draft: str) -> None:
    """Write stored masks to `uri`, in any store, as `form`, a key of `SUFFIXES`; `draft` is as for `storage.staging`.

    The target appears whole or not at all, except a folder in an object store, which cannot be renamed.
    """
    if form == "png":
        _export_pictures(reader, num_frames, uri, draft)
        return
    with storage.staging(uri, draft) as target:
        write_export(reader, num_frames, rate, target, form, name=Path(uri).stem)


def _export_pictures(reader: MaskReader, num_frames: int, uri: str, draft: str) -> None:
    """Write a folder of PNG masks: picture by picture to an object store, else by renaming a draft folder."""
    if not storage.is_local(uri):
        for name, data in _pictures(reader, num_frames):
            storage.publish(storage.join(uri, name), data)
        return
    target = storage.resolve(uri)[1]
    folder = storage.resolve(draft)[1]
    earlier = folder + ".old"
    shutil.rmtree(folder, ignore_errors=True)  # the draft of a killed process
    write_export(reader, num_frames, None, folder, "png")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(target):  # a folder with files in it cannot be replaced
        shutil.rmtree(earlier, ignore_errors=True)
        os.rename(target, earlier)
    os.rename(folder, target)
    shutil.rmtree(earlier, ignore_errors=True)


def inline_coco(reader: MaskReader, num_frames: int, name: str) -> str | None:
    """Return stored masks as COCO run-length JSON; None if the text exceeds `INLINE_BYTES`."""
    masks: list[FrameMask] = []
    length = 0
    for mask in every_mask(reader, num_frames):
        if mask is not None:
            masks.append(mask)
            length += len(encode(mask, reader.size)["counts"])
        if length > INLINE_BYTES:
            return None
    text = json.dumps(as_coco(name, reader.size, num_frames, masks))
    return text if len(text) <= INLINE_BYTES else None


def write_export(
    reader: MaskReader, num_frames: int, rate: Fraction | None, target: str, form: str, *, name: str = ""
) -> None:
    """Write stored masks to the local path `target` as `form`, a key of `SUFFIXES`, of a video `name` at `rate`."""
    if form == "ffv1":
        write_mask_video(
            target, (_full(mask, reader.size) for mask in every_mask(reader, num_frames)), rate or DEFAULT_RATE
        )
    elif form == "png":
        Path(target).mkdir(parents=True, exist_ok=True)
        for file, data in _pictures(reader, num_frames):
            Path(target, file).write_bytes(data)
    elif form == "coco":
        masks = _present_masks(reader, num_frames)
        Path(target).write_text(json.dumps(as_coco(name or Path(target).stem, reader.size, num_frames, masks)))
    else:
        write_masks(target, reader.size, _present_masks(reader, num_frames))


def every_mask(reader: MaskReader, num_frames: int) -> Iterator[FrameMask | None]:
    """Yield the mask of each frame of a video of `num_frames`, or None, in order."""
    for start in range(0, num_frames, CHUNK_FRAMES):
        stop = min(start + CHUNK_FRAMES, num_frames)
        masks = reader.get(start, stop)
        yield from (masks.get(index) for index in range(start, stop))


def _present_masks(reader: MaskReader, num_frames: int) -> Iterator[FrameMask]:
    """Yield the masks of a video of `num_frames`, in order; frames without a mask are left out."""
    return (mask for mask in every_mask(reader, num_frames) if mask is not None)


def _pictures(reader: MaskReader, num_frames: int) -> Iterator[tuple[str, bytes]]:
    """Yield file name and PNG content for each frame."""
    for index, mask in enumerate(every_mask(reader, num_frames)):
        picture = io.BytesIO()
        Image.fromarray(_full(mask, reader.size)).save(picture, "png")
        yield f"{index:06d}.png", picture.getvalue()


def _full(mask: FrameMask | None, size: Size) -> Bits:
    return np.zeros((size.height, size.width), np.bool_) if mask is None else mask.full(size)
