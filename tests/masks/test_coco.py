"""Run-length codes: equal to those of pycocotools, and read in each form that other tools write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vace_batch.geometry import Box, Size
from vace_batch.masks.coco import as_coco, encode
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.store import FrameMask, box_mask, make_mask

SIZE = Size(70, 40)
NUM_FRAMES = 6


def masks() -> list[FrameMask]:
    made = []
    for index in (0, 2, 3, 5):
        bits = np.random.default_rng(index).random((17, 23)) > 0.4
        mask = make_mask(index, bits, (5 * index, 3 * index))
        assert mask is not None
        made.append(mask)
    return made


def test_the_codes_are_those_of_coco() -> None:
    content = as_coco("clip", SIZE, NUM_FRAMES, masks())
    (annotation,) = content["annotations"]
    mask = masks()[1]
    code = annotation["segmentations"][2]
    assert np.array_equal(rle.decode(code).astype(bool), mask.full(SIZE))
    assert rle.area(code) == mask.bits.sum() == annotation["areas"][2]
    assert rle.toBbox(code).tolist() == annotation["bboxes"][2]
    assert annotation["segmentations"][1] is None and content["videos"][0]["length"] == NUM_FRAMES
    json.dumps(content)


def test_other_forms_of_coco_are_read(tmp_path: Path) -> None:
    by_image = {
        "images": [{"id": 30 + index, "width": 70, "height": 40} for index in reversed(range(NUM_FRAMES))],
        "annotations": [
            {"id": number, "image_id": 30 + mask.index, "segmentation": encode(mask, SIZE)}
            for number, mask in enumerate(masks())
        ],
    }
    per_frame: list[Any] = [None] * NUM_FRAMES
    for mask in masks():
        per_frame[mask.index] = encode(mask, SIZE)
    plain = [uncompressed(mask) for mask in masks()]
    for content in (by_image, per_frame, by_image | {"annotations": [
        {"image_id": 30 + mask.index, "segmentation": code} for mask, code in zip(masks(), plain, strict=True)
    ]}):  # fmt: skip
        (tmp_path / "masks.json").write_text(json.dumps(content))
        assert list(read_masks(str(tmp_path / "masks.json"), SIZE, NUM_FRAMES)) == masks()


def uncompressed(mask: FrameMask) -> dict[str, Any]:
    flat = mask.full(SIZE).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return {"size": [SIZE.height, SIZE.width], "counts": counts}


def test_two_objects_of_a_frame_are_joined(tmp_path: Path) -> None:
    first = box_mask(0, Box(3, 5, 4, 4))
    second = box_mask(0, Box(40, 5, 4, 4))
    content = {"annotations": [{"segmentations": [encode(mask, SIZE)]} for mask in (first, second)]}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    (joined,) = read_masks(str(tmp_path / "masks.json"), SIZE, 1)
    assert joined.box == Box(3, 5, 41, 4) and joined.bits.sum() == 32
