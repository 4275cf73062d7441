"""Read and write masks as COCO run-length JSON: one annotation a video, with a segmentation a frame, as YouTube-VIS."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import Bits, FrameMask

MAX_BYTES = 1 << 30
"""The largest file read; the codes of a long film take some hundred MB."""

CATEGORY = {"id": 1, "name": "mask"}


def encode(mask: FrameMask, size: Size) -> dict[str, Any]:
    """Encode a mask as compressed run-length code: `{"size": [H, W], "counts": str}`."""
    code = rle.encode(np.asfortranarray(mask.full(size).view(np.uint8)))
    return {"size": [size.height, size.width], "counts": code["counts"].decode("ascii")}


def as_coco(name: str, size: Size, num_frames: int, masks: Iterable[FrameMask]) -> dict[str, Any]:
    """Return masks, in rising frames, as one annotation of the video `name`; frames without a mask are null."""
    segmentations: list[dict[str, Any] | None] = [None] * num_frames
    boxes: list[list[int] | None] = [None] * num_frames
    areas: list[int | None] = [None] * num_frames
    for mask in masks:
        box: Box = mask.box
        segmentations[mask.index] = encode(mask, size)
        boxes[mask.index] = [box.x, box.y, box.width, box.height]
        areas[mask.index] = int(mask.bits.sum())
    video = {"id": 1, "width": size.width, "height": size.height, "length": num_frames, "file_names": [name]}
    annotation: dict[str, Any] = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 1}
    annotation |= {"segmentations": segmentations, "bboxes": boxes, "areas": areas}
    return {"videos": [video], "categories": [CATEGORY], "annotations": [annotation]}


def read_coco(path: Path, size: Size) -> tuple[int | None, Iterator[tuple[int, Bits]]]:
    """Return the file's number of frames (None if it has none) and the (H,W) mask of each masked frame, in order.

    A mask of another size than the video's `size` is refused before it is decoded: its code may claim any size.

    Three forms are read: a list with a code (or null) a frame; annotations with `segmentations` a frame; annotations
    with one `segmentation` of an image each, frames in the order of the image `id`s. Masks of one frame are joined.

    Raises:
        ClipError: `bad_mask_file`, `mask_size_mismatch`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES:,} bytes, got {path.stat().st_size:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
        length, codes = _codes(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ClipError("bad_mask_file", f"mask_uri: {path.name} is not a COCO run-length file: {error}") from error
    return length, ((index, _decode(index, codes[index], path, size)) for index in sorted(codes))


def _codes(content: Any) -> tuple[int | None, Mapping[int, list[Mapping[str, Any]]]]:
    """Return a file's number of frames and the run-length codes of each frame."""
    codes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    if isinstance(content, list):
        content = {"annotations": [{"segmentations": content}]}
    images = {image["id"]: number for number, image in enumerate(sorted(content.get("images", []), key=_id))}
    lengths = [video["length"] for video in content.get("videos", []) if "length" in video]
    for annotation in content["annotations"]:
        if "segmentations" in annotation:
            lengths.append(len(annotation["segmentations"]))
            frames = list(enumerate(annotation["segmentations"]))
        else:
            frames = [(images[annotation["image_id"]], annotation["segmentation"])]
        for index, code in frames:
            if code is not None:
                codes[index].append({"size": code["size"], "counts": code["counts"]})
    return max([*lengths, len(images)]) or None, codes


def _id(image: Mapping[str, Any]) -> int:
    return int(image["id"])


def _decode(index: int, codes: list[Mapping[str, Any]], path: Path, size: Size) -> Bits:
    """Decode and join the run-length codes of one frame."""
    bits: Bits | None = None
    for code in codes:
        if code["size"] != [size.height, size.width]:
            reason = f"mask_uri: frame {index} is {code['size']!r:.40} (height, width), the video is {size}"
            raise ClipError("mask_size_mismatch", reason)
        try:
            packed = rle.frPyObjects(code, *code["size"]) if isinstance(code["counts"], list) else code
            part: Bits = np.ascontiguousarray(rle.decode(packed)).astype(np.bool_)
            bits = part if bits is None else bits | part
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ClipError("bad_mask_file", f"mask_uri: {path.name}: a run-length code is damaged") from error
    assert bits is not None
    return bits
