"""Closed captions inside the pictures (CEA-608 and 708, ATSC A/53 part 4) go where their pictures go."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vace_batch.geometry import Box
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.frame import Frame
from vace_batch.video.writer import rewrite

START_CODE = b"\0\0\0\1"
NAL_HEADERS = {"libx264": b"\x06", "libx265": b"\x4e\x01"}
EDITED = range(14, 20)


def caption_unit(codec: str, number: int) -> bytes:
    """An SEI message of one caption pair that tells the frame's number."""
    said = b"\xb5\x00\x31GA94" + bytes([3, 0x41, 0xFF, 0xFC, 0x80 | number, 0x41, 0xFF])
    return START_CODE + NAL_HEADERS[codec] + bytes([4, len(said)]) + said + b"\x80"


def captioned(path: Path, codec: str, num_frames: int = 36) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=25, options={"g": "12", "bf": "0", "preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"

        def mux(packets: Iterable[av.Packet]) -> None:
            for packet in packets:
                number = round(packet.pts * packet.time_base * 25)
                told = av.Packet(caption_unit(codec, number) + bytes(packet))
                told.pts, told.dts, told.time_base, told.stream = packet.pts, packet.dts, packet.time_base, stream
                told.is_keyframe, told.duration = packet.is_keyframe, packet.duration
                sink.mux(told)

        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (96, 128, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            mux(stream.encode(frame))
        mux(stream.encode(None))


def captions(path: Path) -> list[list[bytes]]:
    with av.open(str(path)) as source:
        return [
            [bytes(data) for data in frame.side_data if data.type.name == "A53_CC"] for frame in source.decode(video=0)
        ]


@pytest.mark.parametrize("codec", list(NAL_HEADERS))
@pytest.mark.parametrize("touched", [EDITED, range(36)], ids=["a group", "every frame"])
def test_captions_stay_on_their_frames(tmp_path: Path, codec: str, touched: range) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    captioned(source, codec)
    told = captions(source)
    assert told == [[bytes([0xFC, 0x80 | index, 0x41])] for index in range(36)]

    def edit(frame: Frame) -> None:
        if frame.index in EDITED:
            frame.paste(Box(8, 8, 32, 32), np.full((32, 32, 3), 200, np.uint8), np.ones((32, 32), np.float32))

    report = rewrite(str(source), str(target), edit, EncoderSettings(), touched.__contains__)
    assert report.copied_frames == (24 if touched == EDITED else 0)
    assert captions(target) == told
