"""Chroma location: read from the source, and written to the output."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.support.media_files import Media, make
from vace_batch.video.chroma import chroma_location
from vace_batch.video.encoders import EncoderSettings, choose_encoding
from vace_batch.video.probe import probe


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuvj420p"])
@pytest.mark.parametrize("name", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
def test_every_place_is_told_from_every_other(tmp_path: Path, name: str, pix_fmt: str) -> None:
    media = Media(num_frames=1, width=50, height=38, pix_fmt=pix_fmt, options={"chroma_sample_location": name})
    assert probe(make(tmp_path / "a.mp4", media)).chroma_location == name


@pytest.mark.parametrize("size", [(32, 32), (2, 2), (64, 48)])
def test_the_frame_is_not_touched(size: tuple[int, int]) -> None:
    frame = av.VideoFrame(*size, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes(range(256)) * (plane.buffer_size // 256) + bytes(plane.buffer_size % 256))
    before = [bytes(plane) for plane in frame.planes]
    assert chroma_location(frame) == "center"  # untagged
    assert [bytes(plane) for plane in frame.planes] == before
    assert chroma_location(av.VideoFrame(*size, "yuv444p")) is None
    assert chroma_location(av.VideoFrame(*size, "rgb24")) is None


def test_what_cannot_be_said_is_told(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mkv", Media(codec="libvpx-vp9", options={"chroma_sample_location": "left"})))
    assert choose_encoding(info, EncoderSettings(), "webm").notes == ()
    [word] = choose_encoding(info, EncoderSettings(), "mp4").notes
    assert word == "chroma location left left out: libvpx-vp9 in mp4 does not store it"
