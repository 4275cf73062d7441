"""Recovered pixels of a clip, frame by frame, in a lossless Parquet file.

Shape suffixes: h, w are the rows and columns of a patch's box; 3 is RGB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vace_batch.geometry import Box
from vace_batch.masks.store import Bits

_SCHEMA = pa.schema(
    [pa.field(name, pa.int32(), nullable=False) for name in ("frame", "x", "y", "width", "height")]
    + [pa.field("png", pa.binary(), nullable=False), pa.field("known", pa.binary(), nullable=False)]
)
_ROW_GROUP_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """Pixels of frame `index` in `box` (display px) that other frames showed: `rgb` (h, w, 3) where `known` (h, w).

    `rgb` is uint8, or uint16 over the full 16 bits for sources of more than 8 bits.
    """

    index: int
    box: Box
    rgb: NDArray[np.uint8] | NDArray[np.uint16]
    known: Bits

    def __post_init__(self) -> None:
        shape = (self.box.height, self.box.width)
        if self.rgb.shape != (*shape, 3) or self.known.shape != shape or self.known.dtype != np.bool_:
            raise ValueError(f"patch: expected rgb {(*shape, 3)} and known bool {shape}, got {self.rgb.shape}")

    @property
    def rgb8(self) -> NDArray[np.uint8]:
        """The pixels at 8 bits."""
        return np.asarray(self.rgb if self.rgb.dtype == np.uint8 else self.rgb >> 8, np.uint8)


def write_patches(target: str | Path | BinaryIO, patches: Iterable[Patch]) -> int:
    """Stream patches, one per frame in rising order, into a Parquet file; return the number of known pixels."""
    known = 0
    rows: list[tuple[object, ...]] = []
    with pq.ParquetWriter(target, _SCHEMA, compression="none") as writer:
        for patch in patches:
            known += int(patch.known.sum())
            pixels = np.where(patch.known[..., None], patch.rgb, 0)[..., ::-1]
            ok, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert ok
            box = patch.box
            rows.append(
                (patch.index, box.x, box.y, box.width, box.height, png.tobytes(), np.packbits(patch.known).tobytes())
            )
            if len(rows) == _ROW_GROUP_ROWS:
                writer.write_table(_table(rows))
                rows = []
        if rows:
            writer.write_table(_table(rows))
    return known


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA)


class PatchReader:
    """Reads patches from a file of `write_patches`."""

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._file = pq.ParquetFile(source)

    def get(self, start: int, stop: int) -> dict[int, Patch]:
        """Return the patches of frames start..stop-1 by frame; reads only their row groups."""
        patches: dict[int, Patch] = {}
        for group in range(self._file.num_row_groups):
            frames = self._file.metadata.row_group(group).column(0).statistics
            if frames.max < start or frames.min >= stop:
                continue
            for row in self._file.read_row_group(group, use_threads=False).to_pylist():
                if start <= row["frame"] < stop:
                    patches[row["frame"]] = _patch(row)
        return patches


def _patch(row: dict[str, Any]) -> Patch:
    box = Box(row["x"], row["y"], row["width"], row["height"])
    pixels: Any = cv2.imdecode(np.frombuffer(row["png"], np.uint8), cv2.IMREAD_UNCHANGED)
    bits = np.unpackbits(np.frombuffer(row["known"], np.uint8), count=box.width * box.height)
    known = bits.reshape(box.height, box.width).view(np.bool_)
    return Patch(index=row["frame"], box=box, rgb=np.ascontiguousarray(pixels[..., ::-1]), known=known)
