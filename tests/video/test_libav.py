"""Errors of libav: of a damaged file they become a ClipError with a reason, of the machine they stay OSErrors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.error
import numpy as np
import pytest

from tests.support.media_files import Media, make
from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.video import picture_tracks, reader, tracks
from vace_batch.video.encoders import EncoderSettings, Encoding
from vace_batch.video.frame import Frame
from vace_batch.video.libav import converting, refused_as
from vace_batch.video.orientation import Orientation
from vace_batch.video.reader import demux, read_frames
from vace_batch.video.shots import scan
from vace_batch.video.tracks import add_copies, mux
from vace_batch.video.writer import rewrite

YCGCO = (8, 1, 1, 1)
"""Tags of a file that swscale does not convert, and that x264 writes."""


def fail(code: int) -> None:
    """Raise as PyAV does for an error of libav."""
    av.error.err_check(-code)


@pytest.mark.parametrize(
    "code", [errno.EOPNOTSUPP, errno.EPERM, errno.EAGAIN, errno.EINVAL, errno.ENOSYS, errno.ERANGE]
)
def test_an_error_about_the_file_is_refused_with_the_code_and_libavs_message(code: int) -> None:
    with pytest.raises(ClipError) as caught, refused_as("cannot_write", "the muxer refuses it"):
        fail(code)
    assert caught.value.code == "cannot_write" and not caught.value.retryable
    assert caught.value.reason.startswith("the muxer refuses it (")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EFBIG])
def test_an_error_of_the_machine_is_no_verdict_on_the_file(code: int) -> None:
    with pytest.raises(OSError) as caught, refused_as("cannot_write", "the muxer refuses it"):
        fail(code)
    assert caught.value.errno == code


def test_a_conversion_names_pixel_format_and_colour_tags() -> None:
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace = 255
    with pytest.raises(ClipError, match=r"yuv420p \(colour matrix 255, range 0\) cannot be converted") as caught:
        with converting(frame):
            frame.reformat(format="rgb24")
    assert caught.value.code == "unsupported_pixel_format"


def test_colour_tags_that_nothing_converts_are_refused_by_the_scan_and_by_small_pictures(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Media(tags=YCGCO))
    with pytest.raises(ClipError, match="colour matrix 8") as caught:
        scan(path)
    assert caught.value.code == "unsupported_pixel_format"
    with pytest.raises(ClipError, match="colour matrix 8"):
        next(read_frames(path)).small(Size(16, 16))


class Broken:
    """A container with a demuxer and a muxer that fail with a given error number."""

    format = SimpleNamespace(name="matroska")

    def __init__(self, code: int) -> None:
        self._code = code

    def demux(self, *_: object) -> Iterator[Any]:
        fail(self._code)
        yield

    def mux_one(self, _: object) -> None:
        fail(self._code)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EPERM, errno.EAGAIN, errno.ENOMEM, errno.EINVAL])
def test_a_demuxer_that_stops_at_damage_is_refused(code: int) -> None:
    container: Any = Broken(code)
    with pytest.raises(ClipError, match=r"a.mkv: cannot be read to its end \(") as caught:
        list(demux(container, "a.mkv"))
    assert caught.value.code == "damaged_video"


def test_a_disk_that_fails_is_no_damage() -> None:
    container: Any = Broken(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        list(demux(container, "a.mkv"))


def test_a_muxer_that_refuses_a_packet_is_told_from_a_full_disk() -> None:
    refusing: Any = Broken(errno.EOPNOTSUPP)
    with pytest.raises(ClipError, match="matroska muxer refuses stream"):
        mux(refusing, av.Packet(b"x"))
    full: Any = Broken(errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        mux(full, av.Packet(b"x"))


def test_an_encoder_that_refuses_a_frame_leaves_a_reason_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(context: Any, encoding: Encoding, info: Any) -> None:
        configure(context, encoding, info)
        context.options = {"preset": "no such preset"}

    path, target = make(tmp_path / "a.mp4", Media()), tmp_path / "out.mp4"
    configure = picture_tracks.configure
    monkeypatch.setattr(picture_tracks, "configure", wrong)
    with pytest.raises(ClipError, match=r"libx264 cannot encode frame 1 \(") as caught:
        rewrite(path, str(target), lambda frame: None, EncoderSettings(crf=20))
    assert caught.value.code == "cannot_write" and not target.exists()


def test_an_empty_cover_picture_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cover = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24").reformat(format="yuvj420p")
    path = make(tmp_path / "a.mp4", Media())
    with av.open(path) as source, av.open(str(tmp_path / "cover.mp4"), "w") as sink:
        copy = sink.add_stream_from_template(source.streams.video[0])
        picture: Any = sink.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                sink.mux(packet)
        sink.mux(picture.encode(cover))
        sink.mux(picture.encode(None))
    monkeypatch.setattr(tracks, "demux", lambda *_: iter(()))
    with av.open(str(tmp_path / "cover.mp4")) as source, av.open(str(tmp_path / "out.mkv"), "w") as sink:
        with pytest.raises(ClipError, match="cover picture .* is empty") as caught:
            add_copies(source, sink, source.streams.video[0], "matroska", [])
    assert caught.value.code == "damaged_video"


def test_a_seek_that_fails_reads_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.mp4", Media(num_frames=6))
    times = scan(path).pts
    expected = [frame.rgb() for frame in read_frames(path, 2, 5)]
    whole = reader.open_source

    def no_seek(name: str) -> Any:
        opened: Any = whole(name)
        container = opened.__enter__()

        class NoSeek:
            format = container.format
            streams = container.streams
            demux = container.demux

            def seek(self, *_: object, **__: object) -> None:
                fail(errno.EPERM)

        class Opened:
            def __enter__(self) -> Any:
                return NoSeek()

            def __exit__(self, *error: object) -> None:
                opened.__exit__(*error)

        return Opened()

    monkeypatch.setattr(reader, "open_source", no_seek)
    frames = list(read_frames(path, 2, 5, start_pts=times[2]))
    assert [frame.index for frame in frames] == [2, 3, 4]
    np.testing.assert_array_equal([frame.rgb() for frame in read_frames(path, 2, 5, start_pts=times[2])], expected)


def test_views_of_a_frame_with_unknown_tags_follow_its_size() -> None:
    """RGB views choose a matrix of their own, as players do, so only pictures at another size need the tag."""
    native = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24").reformat(format="yuv420p")
    native.colorspace = 255
    frame = Frame(native, index=0, pts=0, orientation=Orientation())
    assert np.abs(frame.rgb().astype(int) - 90).max() <= 2
