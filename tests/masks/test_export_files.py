from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks import export_files
from vace_batch.masks.export_files import SUFFIXES, every_mask, inline_coco, write_export
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.store import FrameMask, MaskReader, make_mask, write_masks

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
def test_an_export_can_be_read_back(reader: MaskReader, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"exported{SUFFIXES[form]}"
    write_export(reader, NUM_FRAMES, Fraction(25), str(target), form)
    assert list(read_masks(str(target), SIZE, NUM_FRAMES)) == masks()
    assert list(read_masks(str(target), SIZE, NUM_FRAMES, 2, 5)) == masks()[1:3]


@pytest.mark.parametrize("form", SUFFIXES)
def test_an_export_names_its_video(reader: MaskReader, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"exported{SUFFIXES[form]}"
    write_export(reader, NUM_FRAMES, Fraction(25), str(target), form)
    with pytest.raises(ClipError) as error:
        list(read_masks(str(target), Size(72, 40), NUM_FRAMES))
    assert error.value.code == "mask_size_mismatch"
    with pytest.raises(ClipError) as error:
        list(read_masks(str(target), SIZE, NUM_FRAMES - 1))
    assert error.value.code == "mask_length_mismatch"


def test_long_masks_are_not_repeated_in_the_result(reader: MaskReader, monkeypatch: pytest.MonkeyPatch) -> None:
    text = inline_coco(reader, NUM_FRAMES, "a")
    assert text is not None and json.loads(text)["videos"][0]["length"] == NUM_FRAMES
    monkeypatch.setattr(export_files, "INLINE_BYTES", len(text) - 1)
    assert inline_coco(reader, NUM_FRAMES, "a") is None


def test_every_frame_has_its_turn(reader: MaskReader) -> None:
    assert [None if mask is None else mask.index for mask in every_mask(reader, NUM_FRAMES)] == [0, None, 2, 3, None, 5]
