"""Test that streaming, seeking and decord's thumbnails read the same pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.media_files import Media, make, picture
from vace_batch.errors import ClipError
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan
from vace_batch.video.thumbnails import sample_frames

UNEVEN = [n * 1000 + (n * n * 37) % 700 for n in range(40)]
SHORT_GOP = {"g": "9", "bf": "2", "preset": "medium"}

FILES = {
    "gop.mp4": Media(num_frames=40, options=SHORT_GOP),
    "open_gop.mp4": Media(num_frames=40, options=SHORT_GOP | {"x264-params": "open-gop=1"}),
    "vfr.mp4": Media(num_frames=40, pts=UNEVEN, time_base=Fraction(1, 30000), options=SHORT_GOP),
    "early.mp4": Media(
        num_frames=40, pts=[512 * n - 2048 for n in range(40)], time_base=Fraction(1, 12800), options=SHORT_GOP
    ),
    "gop.mkv": Media(num_frames=40, options=SHORT_GOP),
    "gop.ts": Media(num_frames=40, codec="mpeg2video", options={"g": "9", "bf": "2", "b": "4M"}),
    "gop.avi": Media(num_frames=40, options=SHORT_GOP),
    "odd.webm": Media(num_frames=40, codec="libvpx-vp9", width=53, height=41, options={"g": "9"}),
    "rotated.mov": Media(num_frames=40, rotation=90, options=SHORT_GOP),
    "mirrored.mp4": Media(num_frames=40, rotation=270, hflip=True, options=SHORT_GOP),
    "flipped.mp4": Media(num_frames=40, hflip=True, options=SHORT_GOP),
    "ten_bit.mkv": Media(num_frames=40, pix_fmt="yuv420p10le", options=SHORT_GOP),
    "hevc.mp4": Media(
        num_frames=40, codec="libx265", options={"g": "9", "crf": "10", "x265-params": "log-level=error"}
    ),
}


def shown(media: Media, index: int) -> NDArray[np.uint8]:
    """Return the picture as a player shows it."""
    turned = np.rot90(picture(media, index), media.rotation // 90)
    return turned[:, ::-1] if media.hflip else turned


def hidden_frames(name: str) -> int:
    return 4 if name == "early.mp4" else 0


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, Media]:
    name = str(request.param)
    return make(tmp_path / name, FILES[name]), name, FILES[name]


def test_streaming_shows_every_frame_once_in_order(file: tuple[str, str, Media]) -> None:
    path, name, media = file
    skipped = hidden_frames(name)
    frames = [(frame.index, frame.pts, frame.rgb()) for frame in read_frames(path)]
    assert [index for index, *_ in frames] == list(range(40 - skipped))
    assert tuple(pts for _, pts, _ in frames) == scan(path).pts
    for index, _, rgb in frames:
        expected = shown(media, index + skipped)
        assert rgb.shape == expected.shape
        assert np.abs(rgb.astype(int) - expected).mean() < 4  # neighbours differ by 8 and more


def test_seeking_equals_streaming(file: tuple[str, str, Media]) -> None:
    path = file[0]
    found = scan(path)
    whole = [frame.rgb() for frame in read_frames(path)]
    for start in (0, 1, 8, 9, 17, 30, found.num_frames - 1):
        stop = min(start + 3, found.num_frames)
        part = [
            (frame.index, frame.pts, frame.rgb())
            for frame in read_frames(path, start, stop, start_pts=found.pts[start])
        ]
        assert [(index, pts) for index, pts, _ in part] == [(n, found.pts[n]) for n in range(start, stop)]
        for index, _, rgb in part:
            np.testing.assert_array_equal(rgb, whole[index])


def test_counting_equals_seeking(file: tuple[str, str, Media]) -> None:
    assert [frame.index for frame in read_frames(file[0], 5, 8)] == [5, 6, 7]
    assert list(read_frames(file[0], 5, 5)) == []


@pytest.mark.parametrize("name", [name for name in FILES if not hidden_frames(name)])
def test_thumbnails_show_the_frames_asked_for(tmp_path: Path, name: str) -> None:
    media = FILES[name]
    path = make(tmp_path / name, media)
    for index, thumbnail in zip((21, 3), sample_frames(path, (21, 3), width=40), strict=True):
        expected = shown(media, index)
        height = round(40 * expected.shape[0] / expected.shape[1])
        assert thumbnail.shape == (height, 40, 3)
        rows = np.arange(height) * expected.shape[0] // height
        columns = np.arange(40) * expected.shape[1] // 40
        assert np.abs(thumbnail.astype(int) - expected[rows][:, columns]).mean() < 14


def test_times_that_do_not_grow_are_named_in_seconds(tmp_path: Path) -> None:
    media = Media(num_frames=4, codec="mjpeg", pix_fmt="yuvj420p", tags=(5, 1, 1, 2))
    with av.open(make(tmp_path / "a.mkv", media)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet, milliseconds in zip(source.demux(video=0), (0, 40, 40, 80), strict=False):
            packet.pts = packet.dts = milliseconds
            packet.stream = copy
            target.mux(packet)
    with pytest.raises(ClipError, match=r"frame 2 has 0\.040 s and must be later than the frame before \(0\.040 s\)"):
        list(read_frames(str(tmp_path / "b.mkv")))


def test_a_wrong_start_pts_is_not_believed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", FILES["gop.mp4"])
    assert [frame.index for frame in read_frames(path, 20, 22, start_pts=20 * 512 + 1)] == [20, 21]
    with pytest.raises(ClipError):
        next(read_frames(str(tmp_path / "none.mp4"), 3, start_pts=1536))
