"""Tracks beside the pictures: in any order, attachments, cover pictures; and equal bytes from equal input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition
from PIL import Image

from tests.support.media_files import Media, Sound, make
from vace_batch.video.frame import Frame
from vace_batch.video.shots import scan
from vace_batch.video.writer import rewrite

EDITS = (None, [(9, 10)])
FONT = b"no real font" * 50


def same(_: Frame) -> None:
    pass


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(data, "PNG")
    return data.getvalue()


def rearranged(path: Path, *, sound_first: bool = False, font: bool = False, cover: bool = False) -> str:
    """Make a file with two groups of pictures after its last B-frame, with tracks in another order or extra tracks."""
    media = Media(num_frames=24, sounds=(Sound(),), options={"g": "8", "preset": "medium"})
    with av.open(make(path.with_name("plain.mp4"), media)) as plain, av.open(str(path), "w") as sink:
        streams = list(reversed(plain.streams)) if sound_first else list(plain.streams)
        copies = {stream.index: sink.add_stream_from_template(stream) for stream in streams}
        if font:
            sink.add_attachment("font.ttf", "application/x-truetype-font", FONT)
        if cover and path.suffix == ".mkv":
            sink.add_attachment("poster.png", "image/png", picture())
        elif cover:
            poster: Any = sink.add_mux_stream("png", width=32, height=24)
            poster.disposition = Disposition.attached_pic
            packet = av.Packet(picture())
            packet.stream, packet.pts, packet.dts = poster, 0, 0
            sink.mux(packet)
        for packet in plain.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                sink.mux(packet)
    return str(path)


def extras(path: str) -> list[tuple[str, bytes]]:
    """Return attachments with their names, and cover pictures."""
    with av.open(path) as container:
        fonts = [(stream.metadata["filename"], bytes(stream.data)) for stream in container.streams.attachments]
        covers = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
        pictures = [
            (stream.metadata.get("filename", "cover"), bytes(packet))
            for stream in covers
            for packet in container.demux(stream)
            if packet.size
        ]
    return fonts + pictures


@pytest.mark.parametrize("edited", EDITS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_the_video_need_not_be_the_first_track(
    tmp_path: Path, suffix: str, edited: list[tuple[int, int]] | None
) -> None:
    """libav marks the end of each track; the sound's end is not the video's, nor the other way round."""
    source = rearranged(tmp_path / ("a" + suffix), sound_first=True)
    target = str(tmp_path / ("out" + suffix))
    assert rewrite(source, target, same, None, edited).num_frames == 24
    assert scan(target).pts == scan(source).pts
    with av.open(target) as container:
        assert len(container.streams.audio) == 1


@pytest.mark.parametrize("edited", EDITS)
def test_attachments_are_kept(tmp_path: Path, edited: list[tuple[int, int]] | None) -> None:
    source = rearranged(tmp_path / "a.mkv", font=True)
    target = str(tmp_path / "out.mkv")
    assert rewrite(source, target, same, None, edited).notes == ()
    assert extras(source) == extras(target) == [("font.ttf", FONT)]
    words = rewrite(source, str(tmp_path / "out.mp4"), same, None, edited).notes
    assert words[1] == "attachment track 2 left out: mp4 does not take it"


@pytest.mark.parametrize("edited", EDITS)
@pytest.mark.parametrize("source", [".mkv", ".mp4"])
@pytest.mark.parametrize("target", [".mkv", ".mp4"])
def test_cover_pictures_are_kept(
    tmp_path: Path, source: str, target: str, edited: list[tuple[int, int]] | None
) -> None:
    before = rearranged(tmp_path / ("a" + source), cover=True)
    after = str(tmp_path / ("out" + target))
    report = rewrite(before, after, same, None, edited)
    assert len(report.notes) == (source != target)
    [(name, data)] = extras(after)
    assert data == picture() and name in ("poster.png", "cover.png", "cover")
    assert scan(after).num_frames == 24


@pytest.mark.parametrize(
    ("suffix", "media"),
    [
        (".webm", Media(codec="libvpx-vp9")),
        (".mkv", Media(codec="libsvtav1", width=128, height=96)),
        (".mp4", Media(codec="libx265", options={"x265-params": "log-level=error"})),
        (".mov", Media(codec="prores_ks", pix_fmt="yuv422p10le")),
        (".avi", Media(codec="mpeg4", options={"b": "2M"})),
        (".mkv", Media(codec="ffv1")),
        (".ts", Media(codec="mpeg2video", options={"b": "4M"})),
    ],
)
def test_equal_input_gives_equal_bytes(tmp_path: Path, suffix: str, media: Media) -> None:
    source = make(tmp_path / ("a" + suffix), media)
    for name in ("one", "two"):
        rewrite(source, str(tmp_path / (name + suffix)), same)
    assert (tmp_path / ("one" + suffix)).read_bytes() == (tmp_path / ("two" + suffix)).read_bytes()
