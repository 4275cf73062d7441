"""H.264 and HEVC units: packing, renumbering, kinds, and damaged headers."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.media_files import Media, make
from vace_batch.video import nal


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
def test_units_are_packed_and_unpacked(units: list[bytes]) -> None:
    header = nal.TrackHeader(codec="h264", data=b"", length_size=4, sets=())
    packet = header.packet(units)
    assert list(header.units(packet)) == units
    if units:
        with pytest.raises(ValueError, match="unit of"):
            list(header.units(packet[:-1]))


@given(st.binary(max_size=60).map(lambda data: bytes(byte % 5 for byte in data)), st.booleans())
def test_a_renumbered_slice_is_one_byte_longer_and_has_no_start_code(tail: bytes, irap: bool) -> None:
    kind = 19 if irap else 1
    slice_data = bytes([kind << 1, 1, 0b10101101 if irap else 0b11001101]) + tail + b"\x80"
    plain = nal._escape(slice_data)
    renumbered = nal.renumber_hevc(plain)
    assert b"\0\0\1" not in renumbered and b"\0\0\0" not in renumbered
    data = nal._unescape(renumbered)
    # first_slice_segment_in_pic_flag, for IDR one more flag, then 1 as 15: 000010000; the rest one byte later.
    head = int.from_bytes(data[2:4], "big")
    assert f"{head:016b}"[2 if irap else 1 :].startswith("000010000")
    assert len(data) == len(slice_data) + 1 and data[4:] == slice_data[3:]


def header_of(tmp_path: Path, codec: str) -> nal.TrackHeader:
    encoder = {"h264": "libx264", "hevc": "libx265"}[codec]
    options = {"x265-params": "log-level=error"} if codec == "hevc" else {}
    with av.open(make(tmp_path / "a.mp4", Media(codec=encoder, num_frames=2, options=options))) as container:
        header = nal.parse_header(codec, container.streams.video[0].codec_context.extradata)
    assert header is not None
    return header


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_sets_are_added_to_a_header_and_read_back(tmp_path: Path, codec: str) -> None:
    header = header_of(tmp_path, codec)
    assert header.length_size == 4 and all(nal.is_parameter_set(codec, unit) for unit in header.sets)
    assert not nal.uses_our_ids(codec, header.sets)
    ours = [nal.renumber_hevc(unit) for unit in header.sets] if codec == "hevc" else list(header.sets)
    joined = nal.parse_header(codec, header.with_sets(ours))
    assert joined is not None and sorted(joined.sets) == sorted([*header.sets, *ours])
    assert nal.uses_our_ids(codec, joined.sets) == (codec == "hevc")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_damaged_headers_are_none_or_raise_a_value_error(tmp_path: Path, codec: str) -> None:
    data = header_of(tmp_path, codec).data

    @given(st.integers(0, len(data) - 1), st.binary(min_size=1, max_size=4), st.integers(0, len(data)))
    @settings(max_examples=300)
    def check(at: int, new: bytes, end: int) -> None:
        damaged = (data[:at] + new + data[at + len(new) :])[:end]
        header = nal.parse_header(codec, damaged)
        if header is not None:
            try:
                nal.uses_our_ids(codec, header.sets)
            except ValueError:
                pass

    check()
    assert nal.parse_header(codec, None) is None and nal.parse_header(codec, data[:10]) is None


def test_a_parameter_set_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(ValueError, match="end within a number"):
        nal.uses_our_ids("h264", [bytes([8])])
    assert not nal.uses_our_ids("hevc", [bytes([32 << 1, 1])])


@pytest.mark.parametrize(
    ("kind", "idr", "random_access"),
    [(1, False, False), (19, True, False), (20, True, False), (21, False, True), (16, False, True)],
)
def test_hevc_pictures_are_told_apart_by_their_kind(kind: int, idr: bool, random_access: bool) -> None:
    unit = bytes([kind << 1, 1, 0x80])
    assert nal.unit_type("hevc", unit) == kind
    assert (nal.is_idr("hevc", unit), nal.is_random_access("hevc", unit)) == (idr, random_access)
    broken = nal.as_broken_link(unit)
    assert nal.unit_type("hevc", broken) == (18 if random_access else kind) and broken[1:] == unit[1:]


def test_start_codes_of_three_and_four_bytes_divide_units() -> None:
    assert nal.split_start_codes(b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\1\x65") == [b"\x67ab", b"\x68c", b"\x65"]
    assert nal.split_start_codes(b"no unit") == []
