"""Join H.264 and HEVC bitstreams of two encodings in one track, as MP4 and Matroska hold them.

Units stand behind their lengths, parameter sets in the track's header. The parameter sets of both encodings stand side
by side in the header under different numbers, so that any packet decodes after any seek. Syntax: ITU-T H.264 and H.265,
clauses 7.3; headers: ISO/IEC 14496-15, 5.3.3 and 8.3.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

H264_SET_ID = 31
"""Number of the added parameter sets in H.264; encoders count from 0."""

HEVC_SET_ID = 15
"""Number of the added parameter sets in HEVC. 15 to 30 are coded 8 bits longer than 0, which keeps a slice aligned."""

_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_H264_IDR, _HEVC_IDR = 5, (19, 20)
_HEVC_BLA, _HEVC_CRA = (16, 17, 18), 21
_START_CODE = re.compile(rb"\x00\x00\x01")
_NEEDS_ESCAPE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackHeader:
    """A track's `avcC` or `hvcC`: `sets` are its parameter sets; `length_size` bytes stand before each unit."""

    codec: str
    data: bytes
    length_size: int
    sets: tuple[bytes, ...]

    def units(self, packet: bytes) -> Iterator[bytes]:
        """Yield the units of one packet.

        Raises:
            ValueError: the lengths do not add up.
        """
        at = 0
        while at < len(packet):
            end = at + self.length_size
            size = int.from_bytes(packet[at:end], "big")
            if end + size > len(packet):
                raise ValueError(f"packet: a unit of {size} bytes at {at} in {len(packet)} bytes")
            yield packet[end : end + size]
            at = end + size

    def packet(self, units: Iterable[bytes]) -> bytes:
        """Pack units into one packet; the inverse of `units`."""
        return b"".join(len(unit).to_bytes(self.length_size, "big") + unit for unit in units)

    def with_sets(self, sets: Sequence[bytes]) -> bytes:
        """Return the header with `sets` added, and with a level that covers them."""
        return (_avcc_with if self.codec == "h264" else _hvcc_with)(self.data, sets)


def parse_header(codec: str, data: bytes | None) -> TrackHeader | None:
    """Parse the header `data` of a track of `codec`, "h264" or "hevc"; None if it is not in length-prefixed form."""
    if not data or data[0] != 1 or len(data) < (7 if codec == "h264" else 23):
        return None
    try:
        if codec == "h264":
            first, at = _read_array(data, 6, data[5] & 31)
            second, _ = _read_array(data, at + 1, data[at])
            return TrackHeader(codec=codec, data=data, length_size=(data[4] & 3) + 1, sets=tuple(first + second))
        sets: list[bytes] = []
        at = 23
        for _ in range(data[22]):
            units, end = _read_array(data, at + 3, int.from_bytes(data[at + 1 : at + 3], "big"))
            sets += units if data[at] & 63 in _SETS["hevc"] else []
            at = end
        return TrackHeader(codec=codec, data=data, length_size=(data[21] & 3) + 1, sets=tuple(sets))
    except (IndexError, ValueError):
        return None


def split_start_codes(data: bytes) -> list[bytes]:
    """Split a stream in start-code form, as encoders write it, into its units."""
    marks = [match.start() for match in _START_CODE.finditer(data)]
    return [data[mark + 3 : end].rstrip(b"\0") for mark, end in pairwise([*marks, len(data)])]


def unit_type(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def is_parameter_set(codec: str, unit: bytes) -> bool:
    return unit_type(codec, unit) in _SETS[codec]


def is_idr(codec: str, unit: bytes) -> bool:
    """Return whether no picture from this unit on refers to a picture before it."""
    kind = unit_type(codec, unit)
    return kind == _H264_IDR if codec == "h264" else kind in _HEVC_IDR


def is_random_access(codec: str, unit: bytes) -> bool:
    """Return whether `as_broken_link` makes this unit's picture as good as an IDR picture."""
    return codec == "hevc" and unit_type(codec, unit) in (*_HEVC_BLA, _HEVC_CRA)


def as_broken_link(unit: bytes) -> bytes:
    """Turn a unit of a CRA picture into one of a BLA picture without leading pictures (H.265, 7.4.2.2).

    Units of other pictures are returned unchanged. CRA and BLA have the same syntax; only the kind in the unit's header
    differs.
    """
    if unit_type("hevc", unit) not in (*_HEVC_BLA, _HEVC_CRA):
        return unit
    return bytes([unit[0] & 0x81 | _HEVC_BLA[-1] << 1]) + unit[1:]


def uses_our_ids(codec: str, sets: Iterable[bytes]) -> bool:
    """Return whether one of `sets` carries the number that the encoder's sets get.

    Raises:
        ValueError: a parameter set is cut off.
    """
    ours = H264_SET_ID if codec == "h264" else HEVC_SET_ID
    for unit in sets:
        kind = unit_type(codec, unit)
        if kind == _SETS[codec][-1]:
            bits = _Bits(_unescape(unit[:32]), at=8 if codec == "h264" else 16)
            if ours in (bits.exp_golomb(), bits.exp_golomb()):
                return True
        elif codec == "hevc" and unit[2:3] and unit[2] >> 4 == ours:
            return True
    return False


def renumber_hevc(unit: bytes) -> bytes:
    """Renumber a unit from parameter set 0, the only number that encoders use, to parameter set 15.

    Raises:
        ValueError: the unit does not refer to parameter set 0.
    """
    kind = unit_type("hevc", unit)
    if kind > 34:
        return unit
    data = bytearray(_unescape(unit))
    if kind in (32, 33):
        data[2] = HEVC_SET_ID << 4 | data[2] & 15
    if kind == 33:
        # Behind the VPS number and layers (8 bits) stand 96 bits of profile and level.
        if data[2] >> 1 & 7:
            raise ValueError("sequence parameter set: expected a single temporal layer")
        data = _number_at(data, 120)
    elif kind == 34:
        data = _number_at(_number_at(data, 16), 25)
    elif kind < 32:
        data = _number_at(data, 18 if 16 <= kind <= 23 else 17)
    return _escape(bytes(data))


def _number_at(data: bytearray, bit: int) -> bytearray:
    """Replace the number 0 (one bit, "1") at `bit` by 15 (nine bits): one byte longer."""
    size = bit // 8 + 1
    room = 8 * size - bit - 1
    head = int.from_bytes(data[:size], "big")
    if not head >> room & 1:
        raise ValueError(f"expected parameter set 0 at bit {bit}")
    before, after = head >> room + 1, head & (1 << room) - 1
    longer = (before << 9 | HEVC_SET_ID + 1) << room | after
    return bytearray(longer.to_bytes(size + 1, "big")) + data[size:]


class _Bits:
    def __init__(self, data: bytes, at: int) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at = at

    def exp_golomb(self) -> int:
        zeros = self._text.find("1", self._at) - self._at
        end = self._at + 2 * zeros + 1
        if zeros < 0 or end > len(self._text):
            raise ValueError("parameter set: the data end within a number")
        value = int(self._text[self._at : end], 2) - 1
        self._at = end
        return value


def _unescape(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _escape(data: bytes) -> bytes:
    return _NEEDS_ESCAPE.sub(b"\0\0\3", data)


def _read_array(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Read `count` units behind two-byte lengths; return them and the end position."""
    units = []
    for _ in range(count):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or end <= at + 2:
            raise ValueError("header: a unit is longer than the header")
        units.append(data[at + 2 : end])
        at = end
    return units, at


def _array(units: Sequence[bytes]) -> bytes:
    return b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)


def _avcc_with(data: bytes, sets: Sequence[bytes]) -> bytes:
    sequences, at = _read_array(data, 6, data[5] & 31)
    pictures, end = _read_array(data, at + 1, data[at])
    new = [unit for unit in sets if unit_type("h264", unit) == 7]
    sequences += new
    pictures += [unit for unit in sets if unit_type("h264", unit) == 8]
    level = max([data[3]] + [unit[3] for unit in new])
    head = data[:3] + bytes([level, data[4], data[5] & 0xE0 | len(sequences)])
    return head + _array(sequences) + bytes([len(pictures)]) + _array(pictures) + data[end:]


def _hvcc_with(data: bytes, sets: Sequence[bytes]) -> bytes:
    arrays: list[tuple[int, list[bytes]]] = []
    at = 23
    for _ in range(data[22]):
        units, end = _read_array(data, at + 3, int.from_bytes(data[at + 1 : at + 3], "big"))
        arrays.append((data[at], units))
        at = end
    for unit in sets:
        kind = unit_type("hevc", unit)
        for head, units in arrays:
            if head & 63 == kind:
                units.append(unit)
                break
        else:
            arrays.append((0x80 | kind, [unit]))
    levels = [_unescape(unit)[14] for unit in sets if unit_type("hevc", unit) == 33]
    body = b"".join(bytes([head]) + len(units).to_bytes(2, "big") + _array(units) for head, units in arrays)
    return data[:12] + bytes([max([data[12], *levels])]) + data[13:22] + bytes([len(arrays)]) + body + data[at:]
