from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, MaskReader, box_mask, make_mask, merge_masks, write_masks

SIZE = Size(37, 23)


def random_masks(count: int, step: int = 3, seed: int = 0) -> list[FrameMask]:
    rng = np.random.default_rng(seed)
    made = (make_mask(step * i, rng.random((23, 37)) > 0.9) for i in range(count))
    return [mask for mask in made if mask is not None]


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_made_mask_is_tight_and_loses_no_pixel(bits: np.ndarray) -> None:
    mask = make_mask(0, bits)
    if mask is None:
        assert not bits.any()
        return
    assert np.array_equal(mask.full(Size(bits.shape[1], bits.shape[0])), bits)
    assert mask.bits[0].any() and mask.bits[-1].any() and mask.bits[:, 0].any() and mask.bits[:, -1].any()


def test_a_loose_or_misfit_box_is_refused() -> None:
    with pytest.raises(ValueError, match="tight"):
        FrameMask(index=0, box=Box(0, 0, 3, 2), bits=np.array([[0, 1, 1], [0, 1, 1]], bool))
    with pytest.raises(ValueError, match="expected bool"):
        FrameMask(index=0, box=Box(0, 0, 3, 3), bits=np.ones((2, 3), bool))


def test_within_cuts_and_pads() -> None:
    mask = box_mask(0, Box(4, 4, 4, 4))
    assert mask.within(Box(6, 2, 4, 4)).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert not mask.within(Box(20, 20, 2, 2)).any()


def test_merge_is_the_union() -> None:
    parts = random_masks(3, step=0)
    merged = merge_masks(parts)
    assert merged is not None
    assert np.array_equal(merged.full(SIZE), np.any([part.full(SIZE) for part in parts], axis=0))
    assert merge_masks([]) is None


def test_round_trip_by_path_and_by_bytes(tmp_path: Path) -> None:
    masks = random_masks(700)
    path = tmp_path / "masks.parquet"
    summary = write_masks(path, SIZE, iter(masks))
    for reader in (MaskReader(path), MaskReader(path.read_bytes())):
        assert reader.size == SIZE
        assert reader.boxes() == dict(summary.boxes) == {mask.index: mask.box for mask in masks}
        assert reader.get(0, 10_000) == {mask.index: mask for mask in masks}
        assert sorted(reader.get(765, 775)) == [765, 768, 771, 774]
    assert pq.ParquetFile(path).num_row_groups == 3


def test_a_range_reads_only_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "masks.parquet"
    write_masks(path, SIZE, random_masks(700))
    reader = MaskReader(path)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: pq.ParquetFile, group: int, **options: object) -> object:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    reader.get(768, 780)
    assert read == [1]


def test_the_digest_is_of_the_content() -> None:
    masks = random_masks(5)

    def digest(masks: list[FrameMask], size: Size = SIZE) -> str:
        return write_masks(io.BytesIO(), size, masks).digest

    flipped = masks[2].bits.copy()
    flipped[3, 3] ^= True
    changed = make_mask(masks[2].index, flipped, (masks[2].box.x, masks[2].box.y))
    assert changed is not None
    assert digest(masks) == digest(list(masks))
    variants = [masks[:-1], [*masks[:2], changed, *masks[3:]], random_masks(5, step=4)]
    assert len({digest(masks), digest(masks, Size(38, 23)), *map(digest, variants)}) == 5


def test_no_masks_is_a_readable_file() -> None:
    target = io.BytesIO()
    assert write_masks(target, SIZE, []).boxes == {}
    reader = MaskReader(target.getvalue())
    assert reader.boxes() == {} and reader.get(0, 9) == {}


def test_wrong_order_and_masks_outside_the_frame_are_bugs() -> None:
    masks = random_masks(2)
    with pytest.raises(ValueError, match="rising"):
        write_masks(io.BytesIO(), SIZE, [masks[1], masks[0]])
    with pytest.raises(ValueError, match="leaves the frame"):
        write_masks(io.BytesIO(), SIZE, [box_mask(0, Box(30, 0, 8, 4))])


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"frame": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="version"):
        MaskReader(tmp_path / "other.parquet")
