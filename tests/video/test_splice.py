"""Smart rendering: unedited groups are copied bit for bit, and the joined file plays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.media_files import Media, Sound, make
from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.video import nal
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan
from vace_batch.video.writer import WriteReport, rewrite

BOX = Box(16, 8, 24, 24)
RED = (200, 30, 40)
FRAMES = 30


@dataclass(frozen=True)
class Pattern:
    """A file, and the first frames of its groups that can be copied alone."""

    suffix: str
    media: Media
    starts: tuple[int, ...]


def h264(params: str = "", **options: str) -> Media:
    options = {"preset": "medium", "x264-params": "scenecut=0" + params} | options
    return Media(num_frames=FRAMES, sounds=(Sound(),), options=options)


def hevc(params: str, **options: str) -> Media:
    # Coding tree units of 16: our encoder's settings would decode none of it, nor these what our encoder makes.
    options = {"x265-params": f"log-level=error:scenecut=0:ctu=16:{params}", "crf": "15"} | options
    return Media(num_frames=FRAMES, codec="libx265", sounds=(Sound(),), options=options)


def intra(codec: str, **fields: Any) -> Media:
    return Media(num_frames=FRAMES, codec=codec, **fields)


UNEVEN = tuple(int(n * 1000 + (n % 3) * 200) for n in range(FRAMES))
FIXED = (0, 8, 16, 24)
PATTERNS = {
    "closed": Pattern(".mp4", h264(g="8"), FIXED),
    "closed_no_b": Pattern(".mkv", h264(g="8", bf="0"), FIXED),
    "pyramid": Pattern(".mov", h264(":b-pyramid=normal:b-adapt=0", g="8", bf="5"), FIXED),
    "scene_cut": Pattern(
        ".mp4", replace(h264(g="99"), cut_at=13, options={"preset": "medium", "x264-params": "min-keyint=2"}), (0, 13)
    ),
    "all_intra": Pattern(".mp4", h264(g="1"), tuple(range(FRAMES))),
    "baseline": Pattern(".mp4", h264(g="8", profile="baseline"), FIXED),
    "uneven": Pattern(".mp4", replace(h264(g="8"), pts=UNEVEN, time_base=Fraction(1, 30000)), FIXED),
    "uneven_mkv": Pattern(
        ".mkv", replace(h264(g="8"), pts=[t // 10 for t in UNEVEN], time_base=Fraction(1, 1000)), FIXED
    ),
    "late": Pattern(
        ".mp4", replace(h264(g="8"), pts=range(6400, 6400 + 512 * FRAMES, 512), time_base=Fraction(1, 12800)), FIXED
    ),
    "hevc": Pattern(".mp4", hevc("open-gop=0", g="8"), FIXED),
    "hevc_mkv": Pattern(".mkv", hevc("open-gop=0:bframes=4", g="8"), FIXED),
    "hevc_10_bit": Pattern(
        ".mov", replace(hevc("open-gop=0", g="8"), pix_fmt="yuv420p10le", tags=(9, 9, 16, 1)), FIXED
    ),
    "vp9": Pattern(".webm", Media(num_frames=FRAMES, codec="libvpx-vp9", options={"g": "8", "keyint_min": "8"}), FIXED),
    "prores": Pattern(".mov", Media(num_frames=FRAMES, codec="prores_ks", pix_fmt="yuv422p10le"), tuple(range(FRAMES))),
    "dnxhr": Pattern(
        ".mov",
        intra("dnxhd", pix_fmt="yuv422p", width=256, height=128, options={"profile": "dnxhr_hq"}),
        tuple(range(FRAMES)),
    ),
    "mjpeg": Pattern(".avi", intra("mjpeg", pix_fmt="yuvj420p", tags=(5, 2, 2, 2)), tuple(range(FRAMES))),
    "ffv1": Pattern(".mkv", Media(num_frames=FRAMES, codec="ffv1", options={"g": "1"}), tuple(range(FRAMES))),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    return {name: make(folder / (name + each.suffix), each.media) for name, each in PATTERNS.items()}


def paint(frame: Frame) -> None:
    rgb = np.empty((BOX.height, BOX.width, 3), np.uint8)
    rgb[...] = RED
    frame.paste(BOX, rgb, np.ones((BOX.height, BOX.width), np.float32))


def payloads(path: str) -> dict[int, list[bytes]]:
    """Return the packets of each track in file order."""
    found: dict[int, list[bytes]] = {}
    with av.open(path) as container:
        for packet in container.demux():
            if packet.size:
                found.setdefault(packet.stream_index, []).append(bytes(packet))
    return found


def spans(starts: tuple[int, ...], edited: set[int]) -> tuple[list[range], list[range]]:
    """Split the groups into copied and encoded ones."""
    groups = [range(start, stop) for start, stop in zip(starts, (*starts[1:], FRAMES), strict=True)]
    return [g for g in groups if not edited & set(g)], [g for g in groups if edited & set(g)]


def check(source: str, target: str, starts: tuple[int, ...], edited: set[int], report: WriteReport) -> None:
    kept, _ = spans(starts, edited)
    assert report.notes == () and report.num_frames == FRAMES
    assert report.copied_frames == sum(map(len, kept))
    before, after = payloads(source), payloads(target)
    for group in kept:  # a group's packets and frames are the same places in the file
        assert before[0][group.start : group.stop] == after[0][group.start : group.stop]
    assert before.get(1) == after.get(1)
    assert scan(source).pts == scan(target).pts
    untouched = {index for group in kept for index in group}
    for one, other in zip(read_frames(source), read_frames(target), strict=True):
        if target.endswith(".mkv"):  # elsewhere the time to the next frame is the duration
            assert one.native.duration == other.native.duration
        if one.index in untouched:
            np.testing.assert_array_equal(one.rgb16(), other.rgb16())
        is_red = np.abs(other.rgb(BOX.pad(-4)).astype(int) - RED).max() < 20
        assert is_red == (one.index in edited), one.index


@pytest.mark.parametrize("name", PATTERNS)
def test_groups_without_edits_are_copied(tmp_path: Path, sources: dict[str, str], name: str) -> None:
    target = str(tmp_path / ("out" + PATTERNS[name].suffix))
    ranges = [(9, 11)] if name == "scene_cut" else [(9, 11), (29, 30)]
    edited = {index for start, stop in ranges for index in range(start, stop)}
    report = rewrite(sources[name], target, paint, None, ranges)
    assert report.copied_frames > 0
    check(sources[name], target, PATTERNS[name].starts, edited, report)


@settings(max_examples=8)
@given(
    name=st.sampled_from(["closed", "pyramid", "scene_cut", "uneven", "hevc", "hevc_mkv"]),
    edited=st.sets(st.integers(0, FRAMES - 1), max_size=4),
)
def test_any_edits_in_any_groups(
    tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str], name: str, edited: set[int]
) -> None:
    target = str(tmp_path_factory.mktemp("any") / ("out" + PATTERNS[name].suffix))
    report = rewrite(sources[name], target, paint, None, edited.__contains__)
    check(sources[name], target, PATTERNS[name].starts, edited, report)


@pytest.mark.parametrize("name", ["closed", "pyramid", "hevc", "hevc_mkv", "vp9"])
def test_it_plays_from_any_key_frame(tmp_path: Path, sources: dict[str, str], name: str) -> None:
    """A player that seeks reads only the header and later packets: the header must hold both encodings' settings."""
    target = str(tmp_path / ("out" + PATTERNS[name].suffix))
    rewrite(sources[name], target, paint, None, [(10, 11), (25, 26)])
    whole = [frame.rgb() for frame in read_frames(target)]
    pts = scan(target).pts
    for start in (24, 8, 16, 0, 9, 26):
        for frame in read_frames(target, start, min(start + 4, FRAMES), start_pts=pts[start]):
            np.testing.assert_array_equal(frame.rgb(), whole[frame.index])
    with av.open(target) as container:
        stream = container.streams.video[0]
        for start in PATTERNS[name].starts[1:]:
            container.seek(pts[start], stream=stream)
            assert next(container.decode(stream)).pts == pts[start]


def test_only_edited_frames_are_handed_out(tmp_path: Path, sources: dict[str, str]) -> None:
    for edited in ([(9, 12)], [(0, FRAMES)], []):
        seen: list[int] = []
        rewrite(sources["closed"], str(tmp_path / "out.mp4"), lambda f, seen=seen: seen.append(f.index), None, edited)
        assert seen == [index for start, stop in edited for index in range(start, stop)]


OPEN = {
    "open.mp4": hevc("open-gop=1:bframes=3:b-adapt=0", g="8"),
    "open.mkv": hevc("open-gop=1:bframes=4:b-pyramid=1", g="8"),
    "open_h264.mp4": h264(":open-gop=1:bframes=3:b-adapt=0", g="8"),
}


@pytest.fixture(scope="module")
def open_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("open")
    return {name: make(folder / name, media) for name, media in OPEN.items()}


@pytest.mark.parametrize(
    ("name", "edited", "copied"),
    [
        # Key frames are shown at 0, 8, 16 and 24, three frames decoded after each are shown before it.
        ("open.mp4", {20}, [*range(13), *range(24, 30)]),
        ("open.mp4", {3}, [*range(8, 30)]),
        ("open.mp4", {9, 25}, [*range(5), *range(16, 21)]),
        ("open.mp4", {8, 24}, [*range(5), *range(16, 21)]),
        ("open.mkv", {20}, [*range(15), *range(24, 30)]),
        ("open_h264.mp4", {20}, [*range(13)]),
        ("open_h264.mp4", {29}, [*range(21)]),
    ],
)
def test_open_groups_are_copied_where_nothing_looks_back(
    tmp_path: Path, open_sources: dict[str, str], name: str, edited: set[int], copied: list[int]
) -> None:
    target = str(tmp_path / ("out_" + name))
    report = rewrite(open_sources[name], target, paint, None, edited.__contains__)
    assert (report.copied_frames, report.notes) == (len(copied), ())
    check_open(open_sources[name], target, edited, copied)


def test_a_joined_open_group_says_so(tmp_path: Path, open_sources: dict[str, str]) -> None:
    """libav accepts a CRA picture after foreign pictures; only a BLA picture declares that none precede it."""
    target = str(tmp_path / "out.mp4")
    rewrite(open_sources["open.mp4"], target, paint, None, [(9, 10)])
    kinds: list[list[int]] = []
    before, after = payloads(open_sources["open.mp4"])[0], payloads(target)[0]
    with av.open(target) as container:
        header = nal.parse_header("hevc", container.streams.video[0].codec_context.extradata)
        assert header is not None
        for packets in (before, after):
            kinds.append([max(nal.unit_type("hevc", unit) for unit in header.units(data)) for data in packets])
    cra, bla, idr = 21, 18, 20
    assert [n for n, kind in enumerate(kinds[0]) if kind == cra] == [5, 13, 21]
    # Frames 5 to 15 were encoded again, so the key frame shown as number 16 is the 17th packet.
    assert {n: kind for n, kind in enumerate(kinds[1]) if kind in (cra, bla, 19, idr) and n >= 16} == {16: bla, 21: cra}
    assert [before[13][6:], before[17:]] == [after[16][6:], after[17:]]


@settings(max_examples=5)
@given(name=st.sampled_from(list(OPEN)), edited=st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=3))
def test_any_edits_in_open_groups(
    tmp_path_factory: pytest.TempPathFactory, open_sources: dict[str, str], name: str, edited: set[int]
) -> None:
    target = str(tmp_path_factory.mktemp("any_open") / ("out_" + name))
    report = rewrite(open_sources[name], target, paint, None, edited.__contains__)
    equal = check_open(open_sources[name], target, edited, [])
    assert equal >= report.copied_frames
    assert not report.notes or "open GOP" in report.notes[0]


def check_open(source: str, target: str, edited: set[int], copied: list[int]) -> int:
    """Check that edits are in place and `copied` frames equal the source's; return the number of equal frames."""
    assert scan(source).pts == (pts := scan(target).pts)
    equal, shown = 0, []
    for one, other in zip(read_frames(source), read_frames(target), strict=True):
        same = np.array_equal(one.rgb(), other.rgb())
        assert same or one.index not in copied, one.index
        assert (np.abs(other.rgb(BOX.pad(-4)).astype(int) - RED).max() < 20) == (one.index in edited), one.index
        equal += same
        shown.append(other.rgb())
    for start in (24, 9, 16, 13):
        for frame in read_frames(target, start, start + 3, start_pts=pts[start]):
            np.testing.assert_array_equal(frame.rgb(), shown[frame.index])
    return equal


def test_a_copied_group_that_does_not_decode_is_found(tmp_path: Path) -> None:
    """A copy alone never decodes the group."""
    source = Path(make(tmp_path / "a.mp4", replace(h264(g="8"), width=320, height=240)))
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place, size = packets[24].pos, packets[24].size
    assert place is not None
    data = bytearray(source.read_bytes())
    data[place + size // 3 : place + size] = b"\x5a" * (size - size // 3)
    source.write_bytes(data)
    with pytest.raises(ClipError) as caught:
        rewrite(str(source), str(tmp_path / "out.mp4"), paint, None, [(9, 10)])
    assert caught.value.code == "damaged_video"
    assert not (tmp_path / "out.mp4").exists()


def test_equal_input_gives_equal_bytes(tmp_path: Path, sources: dict[str, str]) -> None:
    for name in ("closed", "hevc"):
        for target in ("one.mp4", "two.mp4"):
            rewrite(sources[name], str(tmp_path / target), paint, None, [(9, 10)])
        assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_both_settings_stand_in_the_header(tmp_path: Path, sources: dict[str, str]) -> None:
    for name, codec in (("closed", "h264"), ("hevc", "hevc")):
        target = str(tmp_path / "out.mp4")
        rewrite(sources[name], target, paint, None, [(9, 10)])
        headers = []
        for path in (sources[name], target):
            with av.open(path) as container:
                header = nal.parse_header(codec, container.streams.video[0].codec_context.extradata)
                assert header is not None
                headers.append(header.sets)
        assert set(headers[0]) < set(headers[1]) and len(headers[1]) == 2 * len(headers[0])
        assert nal.uses_our_ids(codec, headers[1]) and not nal.uses_our_ids(codec, headers[0])
