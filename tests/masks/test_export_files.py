from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks import export_files
from vace_batch.masks.coco import as_coco, encode
from vace_batch.masks.export_files import SUFFIXES, every_mask, inline_coco, write_export
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask, MaskReader, make_mask, write_masks
from vace_batch.masks.weights import DEMO_DETECTOR
from vace_batch.options import Options
from vace_batch.report.mask_review import review
from vace_batch.steps.prepare import prepare

SIZE, NUM_FRAMES = Size(70, 40), 6


def masks() -> list[FrameMask]:
    made = []
    for index in (0, 2, 3, 5):
        bits = np.random.default_rng(index).random((17, 23)) > 0.4
        mask = make_mask(index, bits, (5 * index, 3 * index))
        assert mask is not None
        made.append(mask)
    return made


@pytest.fixture
def reader(tmp_path: Path) -> MaskReader:
    write_masks(tmp_path / "stored.parquet", SIZE, masks())
    return MaskReader(tmp_path / "stored.parquet")


@pytest.mark.parametrize("form", SUFFIXES)
def test_what_is_kept_can_be_fed_back(reader: MaskReader, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"kept{SUFFIXES[form]}"
    write_export(reader, NUM_FRAMES, Fraction(25), str(target), form)
    assert list(read_masks(str(target), SIZE, NUM_FRAMES)) == masks()
    assert list(read_masks(str(target), SIZE, NUM_FRAMES, 2, 5)) == masks()[1:3]


@pytest.mark.parametrize("form", SUFFIXES)
def test_what_is_kept_says_of_what_it_is(reader: MaskReader, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"kept{SUFFIXES[form]}"
    write_export(reader, NUM_FRAMES, Fraction(25), str(target), form)
    with pytest.raises(ClipError) as error:
        list(read_masks(str(target), Size(72, 40), NUM_FRAMES))
    assert error.value.code == "mask_size_mismatch"
    with pytest.raises(ClipError) as error:
        list(read_masks(str(target), SIZE, NUM_FRAMES - 1))
    assert error.value.code == "mask_length_mismatch"


def test_class_names_are_looked_up_before_the_video_is_opened(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Media(num_frames=4, codec="ffv1"))
    for name, code in (("zebra", "unknown_class"), ("ball", "not_found")):
        job = Job(job_id=name, video_uri=path, task="removal", targets=(name,))
        work = works_of([job], str(tmp_path / "out"), Options(detector=DEMO_DETECTOR), str(tmp_path))[0]
        Path(path).rename(tmp_path / "gone.mkv")
        with pytest.raises(ClipError) as error:
            prepare(work, MaskModels(detector=DEMO_DETECTOR))
        assert error.value.code == code
        reviewed = review(work, MaskModels(detector=DEMO_DETECTOR), str(tmp_path), "png")
        assert reviewed.error is not None and reviewed.error.startswith(code)
        (tmp_path / "gone.mkv").rename(path)


def test_long_masks_are_not_repeated_in_the_result(reader: MaskReader, monkeypatch: pytest.MonkeyPatch) -> None:
    text = inline_coco(reader, NUM_FRAMES, "a")
    assert text is not None and json.loads(text)["videos"][0]["length"] == NUM_FRAMES
    monkeypatch.setattr(export_files, "INLINE_BYTES", len(text) - 1)
    assert inline_coco(reader, NUM_FRAMES, "a") is None


def test_every_frame_has_its_turn(reader: MaskReader) -> None:
    assert [None if mask is None else mask.index for mask in every_mask(reader, NUM_FRAMES)] == [0, None, 2, 3, None, 5]


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
    first, second = (FrameMask(index=0, box=Box(x, 5, 4, 4), bits=np.ones((4, 4), bool)) for x in (3, 40))
    content = {"annotations": [{"segmentations": [encode(mask, SIZE)]} for mask in (first, second)]}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    (joined,) = read_masks(str(tmp_path / "masks.json"), SIZE, 1)
    assert joined.box == Box(3, 5, 41, 4) and joined.bits.sum() == 32


@pytest.mark.parametrize(
    "content", ["", "{", "7", "{}", '{"annotations": [{"segmentation": 1}], "images": []}', '[{"size": [4, 4]}]']
)
def test_what_is_no_mask_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "masks.json").write_text(content)
    (tmp_path / "masks.parquet").write_text(content)
    for name in ("masks.json", "masks.parquet"):
        with pytest.raises(ClipError) as error:
            list(read_masks(str(tmp_path / name), SIZE, 1))
        assert error.value.code in ("bad_mask_file", "mask_length_mismatch")
