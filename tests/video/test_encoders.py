"""Encoders follow the source: quality, key frames, profile, HDR10; and the container that was asked for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.support.media_files import Media, Sound, make
from tests.support.textured_clips import psnr, same, textured
from vace_batch.errors import ClipError
from vace_batch.video.encoders import EncoderSettings, choose_encoding, configure
from vace_batch.video.nal import split_start_codes, unit_type
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan
from vace_batch.video.writer import rewrite

MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_key_frames_stay_where_they_are(tmp_path: Path, codec: str) -> None:
    suffix = ".webm" if codec == "libvpx-vp9" else ".mp4"
    options = {"libx265": {"x265-params": "log-level=error:open-gop=0:scenecut=0"}}.get(codec, {})
    source = make(tmp_path / ("a" + suffix), Media(num_frames=30, codec=codec, options={"g": "7"} | options))
    target = str(tmp_path / ("out" + suffix))
    rewrite(source, target, same)
    keys = []
    for path in (source, target):
        with av.open(path) as container:
            keys.append([packet.pts for packet in container.demux(video=0) if packet.size and packet.is_keyframe])
    assert keys[0] == keys[1] and len(keys[0]) == 5


@pytest.mark.parametrize(("profile", "level"), [("baseline", 41), ("main", 31), ("high", 52)])
def test_profile_and_level_stay(tmp_path: Path, profile: str, level: int) -> None:
    media = Media(options={"preset": "medium", "profile": profile, "level": str(level)})
    source = make(tmp_path / "a.mp4", media)
    rewrite(source, str(tmp_path / "out.mp4"), same)
    before, after = probe(source), probe(str(tmp_path / "out.mp4"))
    assert (before.profile, before.level) == (after.profile, after.level)
    assert after.level == level


@pytest.mark.parametrize("width", [832, 854, 480, 320])
def test_bytes_do_not_depend_on_the_processor(tmp_path: Path, width: int) -> None:
    """x264 writes the same units with and without the processor's special instructions."""
    source = textured(tmp_path / "a.mp4", 20, width=width, num_frames=8)
    info = probe(source)
    encoding = choose_encoding(info, EncoderSettings(crf=15))
    made = []
    for extra in ("", ":asm=0"):
        context = av.CodecContext.create("libx264", "w")
        params = encoding.options["x264-params"] + extra
        options = encoding.options | {"x264-params": params, "preset": "medium"}
        configure(context, replace(encoding, options=options, time_base=Fraction(1, 25)), info)
        packets = []
        for frame in read_frames(source):
            native = frame.native
            native.pict_type, native.pts, native.time_base = (
                av.video.frame.PictureType.NONE,
                frame.index,
                Fraction(1, 25),
            )
            packets += [bytes(packet) for packet in context.encode(native)]
        packets += [bytes(packet) for packet in context.encode(None)]
        made.append([unit for packet in packets for unit in split_start_codes(packet) if unit_type("h264", unit) != 6])
    assert made[0] == made[1]  # but for x264's description of itself


SOURCES = {
    ".mp4": Media(num_frames=30, sounds=(Sound(),), options={"g": "6"}),
    ".mov": Media(num_frames=30, sounds=(Sound(codec="pcm_s16le"),), options={"g": "6"}),
    ".mkv": Media(num_frames=30, sounds=(Sound(),), options={"g": "6"}),
    ".webm": Media(num_frames=30, codec="libvpx-vp9", sounds=(Sound(codec="libopus"),), options={"g": "6"}),
    ".avi": Media(num_frames=30, codec="mpeg4", options={"b": "2M"}),
}


@pytest.mark.parametrize("target", SOURCES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_suffix_chooses_the_container(tmp_path: Path, source: str, target: str) -> None:
    path = make(tmp_path / ("a" + source), SOURCES[source])
    out = str(tmp_path / ("out" + target))
    sound = {".mp4": "aac", ".mov": "pcm", ".mkv": "aac", ".webm": "opus", ".avi": "none"}[source]
    if target == ".webm" and sound in ("aac", "pcm") or sound == "opus" and target in (".mov", ".avi"):
        with pytest.raises(ClipError, match="cannot be copied"):
            rewrite(path, out, same, None, [(7, 8)])
        return
    report = rewrite(path, out, same, None, [(7, 8)])
    before, after = probe(path), probe(out)
    assert "." + {"matroska": "mkv"}.get(after.container, after.container) == target
    assert after.average_rate == before.average_rate and after.num_audio == before.num_audio
    one, other = scan(path), scan(out)
    assert len(one.pts) == len(other.pts) == 30
    for a, b in zip(one.pts, other.pts, strict=True):
        late_s = (a - one.pts[0]) * before.time_base - (b - other.pts[0]) * after.time_base
        assert abs(late_s) <= Fraction(1, 1000)
    assert before.chroma_location == after.chroma_location
    assert psnr(path, out) >= 43
    if source in (".mp4", ".mov", ".mkv") and target in (".mp4", ".mov", ".mkv"):
        assert report.copied_frames == 24


def test_avi_takes_no_variable_rate(tmp_path: Path) -> None:
    media = Media(
        pts=[0, 600, 1000, 3000, 3100, 3200, 4100, 5000, 5100, 6000, 9000, 9900], time_base=Fraction(1, 30000)
    )
    source = make(tmp_path / "a.mp4", media)
    with pytest.raises(ClipError, match="variable frame rate"):
        rewrite(source, str(tmp_path / "out.avi"), same)
