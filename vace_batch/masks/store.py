"""One frame's mask as a tight box and its bits, and the lossless Parquet file of a clip's masks.

Shape suffixes: H, W are the frame's rows and columns; h, w those of the mask's box.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.geometry import Box, Size, union_of

Bits = npt.NDArray[np.bool_]

FORMAT_VERSION = 1
_SCHEMA = pa.schema(
    [
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("x", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("bits", pa.binary(), nullable=False),
    ]
)
_ROW_GROUP_ROWS = 256
# 256 full 4K masks are 265 MB packed; a row group is closed early so that the writer's memory stays flat.
_ROW_GROUP_BYTES = 16 << 20
_MOST_BYTES = 1 << 30
"""The most bytes of a row group that another program wrote."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameMask:
    """The non-empty mask of frame `index`: `bits` (h,w) bool inside `box`, the tight bounding box in display pixels.

    Raises:
        ValueError: bits are not bool, do not fit the box, or do not touch all four sides of it.
    """

    index: int
    box: Box
    bits: Bits

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index: expected a frame number from 0, got {self.index}")
        if self.bits.dtype != np.bool_ or self.bits.shape != (self.box.height, self.box.width):
            raise ValueError(
                f"bits: expected bool {(self.box.height, self.box.width)}, got {self.bits.dtype} {self.bits.shape}"
            )
        edges = (self.bits[0], self.bits[-1], self.bits[:, 0], self.bits[:, -1])
        if not all(edge.any() for edge in edges):
            raise ValueError("bits: expected a tight box; use make_mask, which tightens it")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FrameMask)
            and self.index == other.index
            and self.box == other.box
            and bool(np.array_equal(self.bits, other.bits))
        )

    __hash__ = None  # type: ignore[assignment]

    def within(self, box: Box) -> Bits:
        """Cut the mask to `box`, which may leave the mask's box or miss it; a new (h,w) bool array."""
        out = np.zeros((box.height, box.width), np.bool_)
        common = self.box.intersect(box)
        if common is not None:
            out[common.shift(-box.x, -box.y).slices] = self.bits[common.shift(-self.box.x, -self.box.y).slices]
        return out

    def full(self, size: Size) -> Bits:
        """Return the whole frame's mask, (H,W) bool."""
        return self.within(Box(0, 0, size.width, size.height))


def make_mask(index: int, bits: Bits, origin: tuple[int, int] = (0, 0)) -> FrameMask | None:
    """Make a tight mask of `bits` (h,w) bool whose upper left pixel is `origin` (x, y); None if no bit is set.

    `make_mask(3, np.eye(2, dtype=bool), (10, 20)).box == Box(10, 20, 2, 2)`
    """
    columns = np.flatnonzero(bits.any(axis=0))
    if not columns.size:
        return None
    rows = np.flatnonzero(bits.any(axis=1))
    x = int(columns[0])
    right = int(columns[-1]) + 1
    y = int(rows[0])
    bottom = int(rows[-1]) + 1
    box = Box(origin[0] + x, origin[1] + y, right - x, bottom - y)
    return FrameMask(index=index, box=box, bits=np.ascontiguousarray(bits[y:bottom, x:right]))


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A compressed `FrameMask`, about a hundredth of its memory, to keep over a shot."""

    index: int
    box: Box
    data: bytes

    @staticmethod
    def of(mask: FrameMask) -> PackedMask:
        """Compress a mask."""
        return PackedMask(mask.index, mask.box, zlib.compress(np.packbits(mask.bits).tobytes(), 1))

    def unpack(self) -> FrameMask:
        """Decompress the mask."""
        return _unpack(self.index, self.box, zlib.decompress(self.data))


def box_mask(index: int, box: Box) -> FrameMask:
    """Make a mask that fills `box`."""
    return FrameMask(index=index, box=box, bits=np.ones((box.height, box.width), np.bool_))


def merge_masks(masks: Iterable[FrameMask]) -> FrameMask | None:
    """Join masks of one frame; None without masks."""
    parts = tuple(masks)
    box = union_of(mask.box for mask in parts)
    if box is None or len(parts) == 1:
        return parts[0] if parts else None
    bits = np.zeros((box.height, box.width), np.bool_)
    for mask in parts:
        bits[mask.box.shift(-box.x, -box.y).slices] |= mask.bits
    return FrameMask(index=parts[0].index, box=box, bits=bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSummary:
    """A stored mask set as planning needs it: the tight box of each non-empty frame and the content's digest."""

    size: Size
    boxes: Mapping[int, Box]
    digest: str


class MaskWriter:
    """Streams masks, one frame each in rising order, into a Parquet file of frames of `size`; closed by `with`."""

    def __init__(self, target: str | Path | BinaryIO, size: Size) -> None:
        metadata = {
            "vace_batch.masks.version": str(FORMAT_VERSION),
            "vace_batch.masks.width": str(size.width),
            "vace_batch.masks.height": str(size.height),
        }
        self._size = size
        self._boxes: dict[int, Box] = {}
        self._digest = hashlib.blake2b(struct.pack("<3q", FORMAT_VERSION, size.width, size.height), digest_size=16)
        self._rows: list[dict[str, object]] = []
        self._held_bytes = 0
        self._last_frame = -1
        self._writer = pq.ParquetWriter(target, _SCHEMA.with_metadata(metadata), compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    @property
    def summary(self) -> MaskSummary:
        """The summary of the masks added so far."""
        return MaskSummary(size=self._size, boxes=self._boxes, digest=self._digest.hexdigest())

    def add(self, mask: FrameMask) -> None:
        """Add the next mask.

        Raises:
            ValueError: frames do not rise strictly, or the mask leaves the frame.
        """
        box = mask.box
        if mask.index <= self._last_frame:
            raise ValueError(f"masks: expected rising frames, got {mask.index} after {self._last_frame}")
        if box.clip(self._size) != box:
            raise ValueError(f"masks: frame {mask.index} has {box}, which leaves the frame of {self._size}")
        self._last_frame = mask.index
        packed = np.packbits(mask.bits).tobytes()
        place = (mask.index, box.x, box.y, box.width, box.height)
        self._digest.update(struct.pack("<5q", *place))
        self._digest.update(packed)
        self._boxes[mask.index] = box
        self._rows.append(dict(zip(_SCHEMA.names, (*place, packed), strict=True)))
        self._held_bytes += len(packed)
        if len(self._rows) == _ROW_GROUP_ROWS or self._held_bytes > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA))
        self._rows = []
        self._held_bytes = 0


def write_masks(target: str | Path | BinaryIO, size: Size, masks: Iterable[FrameMask]) -> MaskSummary:
    """Stream masks, one frame each in rising order, into a Parquet file of frames of `size`.

    The digest is over size, frame numbers, boxes and bits: equal masks have equal digests in any file.

    Raises:
        ValueError: as `MaskWriter.add`.
    """
    with MaskWriter(target, size) as writer:
        for mask in masks:
            writer.add(mask)
    return writer.summary


class MaskReader:
    """Reads a file of `write_masks`, from a path, from the file's bytes or from an open file.

    Raises:
        ValueError: the file is not a mask file of a known version.
    """

    def __init__(self, source: str | Path | bytes | BinaryIO) -> None:
        self._file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
        metadata = self._file.schema_arrow.metadata or {}
        version = metadata.get(b"vace_batch.masks.version")
        if version != str(FORMAT_VERSION).encode():
            raise ValueError(f"mask file: expected version {FORMAT_VERSION}, got {version!r}")
        if not self._file.schema_arrow.equals(_SCHEMA):
            raise ValueError(f"mask file: expected the columns {', '.join(_SCHEMA.names)} of its version")
        self.size = Size(int(metadata[b"vace_batch.masks.width"]), int(metadata[b"vace_batch.masks.height"]))

    def boxes(self) -> dict[int, Box]:
        """Return the tight box of each non-empty frame, without reading the bits."""
        table = self._file.read(columns=["frame", "x", "y", "width", "height"], use_threads=False)
        columns = (table.column(name).to_pylist() for name in table.column_names)
        return {frame: Box(*box) for frame, *box in zip(*columns, strict=True)}

    def get(self, start: int, stop: int) -> dict[int, FrameMask]:
        """Return the non-empty masks of frames start..stop-1, from only the row groups that hold them."""
        masks: dict[int, FrameMask] = {}
        for group in range(self._file.num_row_groups):
            frames = self._file.metadata.row_group(group).column(0).statistics
            if frames is not None and (frames.max < start or frames.min >= stop):
                continue
            self._check_room(group)
            for row in self._file.read_row_group(group, use_threads=False).to_pylist():
                if start <= row["frame"] < stop:
                    masks[row["frame"]] = self._unpack(_Row(**row))
        return masks

    def _check_room(self, group: int) -> None:
        """Refuse a row group that decompresses to more than `_MOST_BYTES`: a small file may hold a huge one."""
        num_bytes = self._file.metadata.row_group(group).total_byte_size
        if num_bytes > _MOST_BYTES:
            raise ValueError(f"mask file: expected at most {_MOST_BYTES:,} bytes in a row group, got {num_bytes:,}")

    def _unpack(self, row: _Row) -> FrameMask:
        """Unpack one row of the file, which may hold any numbers."""
        side = f"{row.width}x{row.height}"
        if row.width < 1 or row.height < 1 or row.box.clip(self.size) != row.box:
            raise ValueError(f"mask file: frame {row.frame} has {side} at {row.x}, {row.y} in a frame of {self.size}")
        if len(row.bits) != -(-row.width * row.height // 8):
            raise ValueError(f"mask file: frame {row.frame} has {len(row.bits)} bytes of bits for {side}")
        return _unpack(row.frame, row.box, row.bits)


class _Row(NamedTuple):
    """One row of a mask file, as `_SCHEMA` has it, unchecked."""

    frame: int
    x: int
    y: int
    width: int
    height: int
    bits: bytes

    @property
    def box(self) -> Box:
        return Box(self.x, self.y, self.width, self.height)


def _unpack(index: int, box: Box, bits: bytes) -> FrameMask:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=box.width * box.height)
    return FrameMask(index=index, box=box, bits=flat.reshape(box.height, box.width).view(np.bool_))
