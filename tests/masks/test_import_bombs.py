"""Mask files that are small and say that they are huge: each is the row's failure before any memory is taken.

What they ask for is more than a process can address: a missing check is a MemoryError here, not a machine that swaps.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks import coco, store
from vace_batch.masks.import_files import read_masks

SIZE = Size(64, 48)
HUGE = 1 << 28


def code_of(path: Path) -> str:
    with pytest.raises(ClipError) as error:
        list(read_masks(str(path), SIZE, 4))
    return error.value.code


@pytest.mark.parametrize(
    ("size", "counts"),
    [([HUGE, HUGE], [0, 7]), ([HUGE, HUGE], "07"), ([-48, -64], [1]), (["48", 64], [1]), ([48], [1]), (None, [1])],
)
def test_a_code_of_another_size_is_not_made(tmp_path: Path, size: Any, counts: Any) -> None:
    (tmp_path / "m.json").write_text(json.dumps([{"size": size, "counts": counts}, None, None, None]))
    assert code_of(tmp_path / "m.json") in ("mask_size_mismatch", "bad_mask_file")


@pytest.mark.parametrize("counts", [[0, 1 << 31], [0, 48 * 64 + 1], [5] * 10_000, [-1, 5], "z" * 4000, [[0, 0, 9, 9]]])
def test_a_code_that_runs_over_its_picture_is_refused(tmp_path: Path, counts: Any) -> None:
    code = {"size": [48, 64], "counts": counts}
    (tmp_path / "m.json").write_text(json.dumps([code, None, None, None]))
    assert code_of(tmp_path / "m.json") == "bad_mask_file"


def test_json_that_is_deep_or_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert code_of(tmp_path / "deep.json") == "bad_mask_file"
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(coco.MAX_BYTES + 1)  # sparse; read, it would be a GiB of zeros
    monkeypatch.setattr("vace_batch.masks.coco.json.loads", lambda _: pytest.fail("read"))
    assert code_of(tmp_path / "large.json") == "bad_mask_file"


def write_parquet(path: Path, **row: Any) -> None:
    plain = {"frame": 0, "x": 0, "y": 0, "width": 8, "height": 8, "bits": bytes([255]) * 8}
    said = {"version": f"{store.FORMAT_VERSION}", "width": "64", "height": "48"}
    schema = store._SCHEMA.with_metadata({f"vace_batch.masks.{name}": value for name, value in said.items()})
    pq.write_table(pa.Table.from_pylist([plain | row], schema=schema), path, compression="zstd")


def test_a_plain_file_of_masks_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "m.parquet")
    (mask,) = read_masks(str(tmp_path / "m.parquet"), SIZE, 4)
    assert mask.bits.all() and mask.bits.shape == (8, 8)


@pytest.mark.parametrize(
    "row",
    [
        {"width": HUGE, "height": HUGE},
        {"width": 65},
        {"x": 60},
        {"x": -1},
        {"width": 0},
        {"height": -8},
        {"bits": bytes([255]) * 7},
        {"bits": bytes([255]) * 9},
        {"frame": -1},
    ],
)
def test_a_box_or_bits_that_do_not_fit_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    write_parquet(tmp_path / "m.parquet", **row)
    try:
        assert list(read_masks(str(tmp_path / "m.parquet"), SIZE, 4)) == []  # of a frame that the clip does not have
    except ClipError as error:
        assert error.code == "bad_mask_file"


def test_what_takes_no_room_in_the_file_may_not_take_a_gib_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST_BYTES", 1 << 20)
    write_parquet(tmp_path / "m.parquet", bits=bytes(2 << 20))
    assert (tmp_path / "m.parquet").stat().st_size < 10_000
    monkeypatch.setattr(store.MaskReader, "_unpack", lambda *_: pytest.fail("read"))
    assert code_of(tmp_path / "m.parquet") == "bad_mask_file"


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_a_picture_of_many_pixels_is_not_unpacked(tmp_path: Path, side: int) -> None:
    """The header alone says it; above 179 million pixels Pillow refuses to open it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pixels = zlib.compress(np.zeros(1 << 20, np.uint8).tobytes(), 9)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(content)
    assert code_of(tmp_path / "m.png") == "too_large"
