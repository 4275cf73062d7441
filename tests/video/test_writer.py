"""Test that `rewrite` changes only the pictures."""

from __future__ import annotations

import hashlib
import resource
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.video.encoders import EncoderSettings, choose_encoding
from vace_batch.video.frame import Frame
from vace_batch.video.probe import probe
from vace_batch.video.reader import frames_from_bytes, read_frames
from vace_batch.video.shots import scan
from vace_batch.video.writer import encode_lossless, rewrite, write_clip

UNEVEN = [0, 600, 1000, 3000, 3100, 3200, 4100, 5000, 5100, 6000, 9000, 9900]
COMMENTARY = 8
TWO_TRACKS = (
    Sound(language="eng", seconds=1.3, disposition=1),
    Sound(language="fra", hertz=900, start_s=0.2, seconds=0.3, disposition=COMMENTARY),
)

CASES = {
    "cfr.mp4": Media(sounds=(Sound(),), options={"preset": "medium"}),
    "ntsc.mp4": Media(rate=Fraction(30000, 1001)),
    "vfr.mp4": Media(pts=UNEVEN, time_base=Fraction(1, 30000), sounds=(Sound(),)),
    "vfr.mkv": Media(pts=[t // 10 for t in UNEVEN], time_base=Fraction(1, 1000)),
    "coarse_clock.mov": Media(pts=[24 * n for n in range(12)], time_base=Fraction(1, 600)),
    "odd_rate.avi": Media(codec="mjpeg", pix_fmt="yuvj420p", tags=(5, 2, 2, 2), rate=Fraction(1_000_000, 33_367)),
    "late.mp4": Media(pts=[6400 + 512 * n for n in range(12)], time_base=Fraction(1, 12800), sounds=(Sound(),)),
    "early.mp4": Media(pts=[512 * n - 2048 for n in range(12)], time_base=Fraction(1, 12800), sounds=(Sound(),)),
    "two_tracks.mp4": Media(sounds=TWO_TRACKS),
    "two_tracks.mkv": Media(sounds=TWO_TRACKS),
    "odd.webm": Media(codec="libvpx-vp9", width=53, height=41, sounds=(Sound(codec="libopus"),)),
    "rotated.mov": Media(rotation=90, sounds=(Sound(codec="pcm_s16le"),)),
    "rotated.mp4": Media(rotation=180),
    "rotated.mkv": Media(rotation=270),
    "mirrored.mp4": Media(rotation=90, hflip=True),
    "flipped.mp4": Media(hflip=True),
    "ten_bit.mp4": Media(pix_fmt="yuv420p10le", tags=(9, 9, 16, 1)),
    "top_left.mp4": Media(
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=(9, 9, 16, 1),
        options={"x265-params": "log-level=error:chromaloc=2"},
    ),
    "centre.mkv": Media(options={"chroma_sample_location": "center"}),
    "full_range.mp4": Media(pix_fmt="yuvj420p", tags=(5, 5, 6, 2)),
    "untagged.mp4": Media(tags=(2, 2, 2, 0)),
    "wide_pixels.mkv": Media(sample_aspect_ratio=Fraction(16, 11)),
    "wide_pixels.mp4": Media(sample_aspect_ratio=Fraction(4, 3)),
    "hevc.mp4": Media(codec="libx265", options={"x265-params": "log-level=error", "crf": "12"}),
    "mpeg4.avi": Media(codec="mpeg4", sounds=(Sound(codec="pcm_s16le"),), options={"b": "2M"}),
    "h264.avi": Media(options={"preset": "medium"}),
    "mpeg2.ts": Media(codec="mpeg2video", sounds=(Sound(codec="mp2"),), options={"b": "4M"}),
    "prores.mov": Media(codec="prores_ks", pix_fmt="yuv422p10le"),
    "lossless.mkv": Media(codec="ffv1", pix_fmt="bgr0", tags=(0, 1, 1, 2)),
}


def same(_: Frame) -> None:
    pass


def copied(path: str) -> list[dict[str, Any]]:
    """Return codec, labels, start, payload digest and packet time stamps of each audio and subtitle track."""
    tracks = []
    with av.open(path) as container:
        streams = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        if not streams:
            return []
        found: dict[int, list[Any]] = {stream.index: [] for stream in streams}
        for packet in container.demux(*streams):
            if packet.size:
                found[packet.stream_index].append((packet.pts, packet.dts, bytes(packet)))
        for stream in streams:
            packets = found[stream.index]
            tracks.append(
                {
                    "type": stream.type,
                    "codec": stream.codec_context.name,
                    "language": stream.metadata.get("language"),
                    "default": int(stream.disposition),
                    "start": stream.start_time,
                    "payload": hashlib.md5(b"".join(data for *_, data in packets)).hexdigest(),
                    "times": [] if "pcm" in stream.codec_context.name else [times for *times, _ in packets],
                }
            )
    return tracks


@pytest.mark.parametrize("name", CASES)
def test_everything_but_the_pictures_is_kept(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / name, CASES[name])
    target = str(tmp_path / ("out_" + name))
    report = rewrite(source, target, same)
    before, after = probe(source), probe(target)
    # Headers count frames that an edit list hides; those are not written again.
    moved = {"path", "profile", "duration_s"} | ({"num_frames"} if name == "early.mp4" else set())
    assert {key: getattr(before, key) for key in before.__slots__ if key not in moved} == {
        key: getattr(after, key) for key in after.__slots__ if key not in moved
    }
    assert before.duration_s and after.duration_s and abs(before.duration_s - after.duration_s) < Fraction(1, 40)
    assert scan(source).pts == scan(target).pts
    assert report.num_frames == scan(source).num_frames and report.notes == ()
    assert copied(source) == copied(target)
    with av.open(source) as one, av.open(target) as other:
        last = [list(container.decode(video=0))[-1] for container in (one, other)]
        assert last[0].duration == last[1].duration


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_near_transparent(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / name, CASES[name])
    target = str(tmp_path / ("out_" + name))
    rewrite(source, target, same)
    errors = [
        np.square(one.rgb().astype(float) - other.rgb()).mean()
        for one, other in zip(read_frames(source), read_frames(target), strict=True)
    ]
    assert 10 * np.log10(255**2 / (np.mean(errors) + 1e-9)) >= 44


def test_labels_chapters_and_timecode_are_kept(tmp_path: Path) -> None:
    tags = {"title": "Tést", "comment": "c"}
    media = Media(metadata=tags, chapters=("One", "Two"), timecode="01:02:03:04", sounds=(Sound(),))
    for name in ("a.mp4", "a.mov", "a.mkv"):
        source = make(tmp_path / name, media)
        target = str(tmp_path / ("out_" + name))
        assert rewrite(source, target, same).notes == ()
        with av.open(source) as one, av.open(target) as other:
            assert one.chapters() == other.chapters() and len(other.chapters()) == 2
            assert one.metadata == other.metadata and other.metadata["title"] == "Tést"
            # Matroska may set the case of names; MP4 carries timecode in a track of its own.
            labels = {key.lower(): value for key, value in other.streams.video[0].metadata.items()}
            assert labels["timecode"] == "01:02:03:04"
            assert len(one.streams) == len(other.streams)


def test_quicktime_keys_are_kept(tmp_path: Path) -> None:
    media = Media(metadata={"com.apple.quicktime.make": "Maker", "title": "t"})
    target = str(tmp_path / "out.mov")
    rewrite(make(tmp_path / "a.mov", media), target, same)
    with av.open(target) as container:
        assert container.metadata["com.apple.quicktime.make"] == "Maker"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mov_text"), ("a.mkv", "subrip")])
def test_subtitles_are_copied(tmp_path: Path, name: str, codec: str) -> None:
    source = make(tmp_path / name, Media(subtitles=("Hello", "Wörld"), subtitle_codec=codec))
    target = str(tmp_path / ("out_" + name))
    rewrite(source, target, same)
    assert copied(source) == copied(target) and copied(target)[0]["type"] == "subtitle"


def test_an_edit_is_seen_and_stays_where_it_is(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(width=128, height=96, rotation=90))
    target = str(tmp_path / "out.mp4")
    box, seen = Box(20, 40, 30, 24), []

    def paint(frame: Frame) -> None:
        seen.append(frame.index)
        rgb = np.empty((box.height, box.width, 3), np.uint8)
        rgb[...] = (30, 200, 90)
        frame.paste(box, rgb, np.ones((box.height, box.width), np.float32))

    rewrite(source, target, paint)
    assert seen == list(range(12))
    for before, after in zip(read_frames(source), read_frames(target), strict=True):
        assert np.abs(after.rgb(Box(24, 44, 22, 16)).astype(int) - (30, 200, 90)).max() < 12
        outside = np.ones((128, 96), bool)
        outside[box.pad(8).slices] = False
        assert np.abs(before.rgb().astype(int) - after.rgb())[outside].mean() < 1.5


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(sounds=(Sound(),)))
    for name in ("one.mp4", "two.mp4"):
        rewrite(source, str(tmp_path / name), same, EncoderSettings(threads=2))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_threads_are_those_given(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mp4", Media()))
    assert choose_encoding(info, EncoderSettings(threads=3)).options["threads"] == "3"
    with pytest.raises(ValueError, match="threads"):
        EncoderSettings(threads=0)


def test_crf_changes_the_size(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media())
    for crf in (5, 30):
        rewrite(source, str(tmp_path / f"{crf}.mp4"), same, EncoderSettings(crf=crf))
    assert (tmp_path / "5.mp4").stat().st_size > 1.5 * (tmp_path / "30.mp4").stat().st_size
    with pytest.raises(ValueError, match="crf"):
        EncoderSettings(crf=99)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(num_frames=60, options={"bf": "0"}))
    target = tmp_path / "out.mp4"

    def fail(frame: Frame) -> None:
        if frame.index == 55:
            assert target.exists()  # the header has been written: there is something to remove
            raise ClipError("stop", "here")

    with pytest.raises(ClipError, match="here"):
        rewrite(source, str(target), fail, EncoderSettings(preset="ultrafast"))
    assert not target.exists()
    with pytest.raises(ValueError, match="another file"):
        rewrite(source, source, same)
    assert probe(source).num_frames == 60


def test_a_full_disk_is_no_verdict_on_the_video(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", Media(num_frames=20, width=320, height=240, options={"crf": "1"}))
    target = tmp_path / "out.mkv"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            rewrite(source, str(target), same, EncoderSettings(crf=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not target.exists()


def test_containers_that_are_only_read_become_matroska(tmp_path: Path) -> None:
    source = make(tmp_path / "a.flv", Media(codec="flv", options={"b": "2M"}))
    assert probe(source).suffix == ".mkv"
    report = rewrite(source, str(tmp_path / "out.mkv"), same)
    assert report.codec == "libx264"
    assert report.notes == ("video codec flv1 written with libx264", "container flv written as Matroska")
    assert scan(str(tmp_path / "out.mkv")).num_frames == 12


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """A picture is 115 kB and a second of PCM 96 kB: keeping pictures for 240 frames would show."""
    media = Media(width=320, height=240, num_frames=320, sounds=(Sound(codec="pcm_s16le", seconds=13),))
    source = make(tmp_path / "a.mov", media)
    resident: dict[int, int] = {}

    def measure(frame: Frame) -> None:
        resident[frame.index] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    rewrite(source, str(tmp_path / "out.mov"), measure, EncoderSettings(preset="ultrafast", crf=30))
    assert resident[319] - resident[80] < 4_000_000


def test_lossless_frames_come_back_bit_for_bit() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    data = encode_lossless(frames)
    np.testing.assert_array_equal(np.stack(list(frames_from_bytes(data))), frames)
    assert data == encode_lossless(frames)


def test_a_clip_with_a_tone(tmp_path: Path) -> None:
    path = str(tmp_path / "a.mp4")
    frames = [np.full((48, 64, 3), 20 * n, np.uint8) for n in range(10)]
    write_clip(path, iter(frames), rate=Fraction(10), tone_hz=440, title="A clip")
    info = probe(path)
    assert (info.num_frames, info.num_audio, info.average_rate, info.matrix) == (10, 1, Fraction(10), 1)
    with av.open(path) as container:
        audio = container.streams.audio[0]
        assert audio.duration is not None and audio.time_base is not None
        assert abs(audio.duration * audio.time_base - 1) < Fraction(1, 50)
        assert container.metadata["title"] == "A clip"
    for frame, expected in zip(read_frames(path), frames, strict=True):
        assert np.abs(frame.rgb().astype(int) - expected).max() <= 3
    with pytest.raises(ValueError, match="at least one frame"):
        write_clip(str(tmp_path / "none.mp4"), iter(()), rate=Fraction(10))
    assert not (tmp_path / "none.mp4").exists()
