"""probe and scan: the facts of a file, and an error code for every file that is not a usable video."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.media_files import Media, Sound, make, picture
from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.options import MediaLimits
from vace_batch.video import probe as probe_module
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_gray, read_image
from vace_batch.video.shots import scan
from vace_batch.video.writer import rewrite


def code_of(path: str | Path) -> str:
    with pytest.raises(ClipError) as caught:
        probe(str(path))
    assert str(path) in caught.value.reason
    return caught.value.code


def test_a_plain_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Media(sounds=(Sound(), Sound(language="fra"))))
    info = probe(path)
    assert (info.container, info.codec, info.pix_fmt, info.bit_depth) == ("mp4", "h264", "yuv420p", 8)
    assert (info.size, info.coded_size, info.rotation) == (Size(64, 48), Size(64, 48), 0)
    assert (info.num_frames, info.average_rate, info.duration_s) == (12, Fraction(25), Fraction(12, 25))
    assert (info.matrix, info.primaries, info.trc, info.color_range) == (1, 1, 1, 1)
    assert (info.num_audio, info.num_subtitles, info.suffix, info.variable_rate) == (2, 0, ".mp4", False)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.mp4", "libx264", "mp4"),
        ("a.mov", "libx264", "mov"),
        ("a.mkv", "libx264", "matroska"),
        ("a.webm", "libvpx-vp9", "webm"),
        ("a.avi", "mpeg4", "avi"),
        ("a.ts", "mpeg2video", "mpegts"),
    ],
)
def test_content_decides_the_container(tmp_path: Path, name: str, codec: str, container: str) -> None:
    make(tmp_path / name, Media(codec=codec))
    renamed = (tmp_path / name).rename(tmp_path / "no_extension")
    info = probe(str(renamed))
    assert info.container == container
    assert info.suffix == Path(name).suffix


def test_sides_are_those_of_the_display(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mov", Media(rotation=90, sample_aspect_ratio=Fraction(4, 3))))
    assert (info.size, info.coded_size, info.rotation) == (Size(48, 64), Size(64, 48), 90)
    assert info.sample_aspect_ratio == Fraction(4, 3)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert code_of(tmp_path / "nope.mp4") == "not_found"
    assert code_of(tmp_path / "dangling.mp4") == "not_found"
    assert code_of(tmp_path / "loop.mp4") == "not_found"
    assert code_of("http://127.0.0.1:9/x.mp4") == "not_found"
    assert code_of("nul\0byte") == "not_found"
    assert code_of(tmp_path) == "is_directory"
    assert code_of(tmp_path / "pipe.mp4") == "not_a_file"
    assert code_of("/dev/zero") == "not_a_file"
    assert code_of(tmp_path / "empty.mp4") == "empty_file"


def test_what_is_no_video(tmp_path: Path) -> None:
    good = Path(make(tmp_path / "good.mp4", Media()))
    (tmp_path / "text.mp4").write_text("no video at all\n" * 50)
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{good.name}'\n")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{good.name}\n#EXT-X-ENDLIST\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "image.mp4", format="JPEG")
    whole = good.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) - 400])  # its index stands at the end
    assert code_of(tmp_path / "text.mp4") == "not_a_video"
    assert code_of(tmp_path / "concat.mp4") == "not_a_video"
    assert code_of(tmp_path / "list.m3u8") == "not_a_video"
    assert code_of(tmp_path / "image.mp4") == "is_an_image"
    assert code_of(tmp_path / "cut.mp4") == "unreadable_video"


def test_reasons_say_what_came_and_what_helps(tmp_path: Path) -> None:
    good = Path(make(tmp_path / "good.mp4", Media())).read_bytes()
    (tmp_path / "codec.mp4").write_bytes(good.replace(b"avc1", b"zzzz"))
    (tmp_path / "text.mp4").write_text("no video at all\n" * 50)
    Image.new("RGB", (64, 48)).save(tmp_path / "image.mp4", format="JPEG")
    make(tmp_path / "fields.ts", Media(codec="mpeg2video", options={"flags": "+ildct+ilme"}))
    for name, reason in {
        "codec.mp4": "no decoder here reads its video track; convert the video",
        "text.mp4": "not a video file: its content is no container that is read",
        "image.mp4": "an image (jpeg), not a video",
        "fields.ts": "deinterlace it first, as by `ffmpeg -i IN -vf bwdif OUT`",
    }.items():
        with pytest.raises(ClipError) as caught:
            probe(str(tmp_path / name))
        assert reason in caught.value.reason


def test_names_are_never_protocols_or_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = Path(make(tmp_path / "a.mp4", Media(num_frames=3)))
    for name in ["file:proto.mp4", "-i.mp4", "concat:a.mp4|b.mp4", "fmt_%d_{id}.mp4", "日本 語\n.mp4", "star*[1]?.mp4"]:
        plain.rename(name)
        assert scan(name).num_frames == 3
        plain = Path(name)


def test_what_is_over_a_limit_is_refused_undecoded(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Media(sounds=(Sound(),)))
    for change, code in (
        ({"max_pixels": 64 * 48 - 1}, "too_large"),
        ({"max_duration_s": 0.4}, "too_long"),
        ({"max_frames": 11}, "too_long"),
        ({"max_streams": 1}, "too_many_streams"),
    ):
        with pytest.raises(ClipError) as caught:
            probe(path, MediaLimits.model_validate(change))
        assert caught.value.code == code
        assert f"--limit {next(iter(change))}=N" in caught.value.reason
    timeless = make(tmp_path / "a.ts", Media(codec="mpeg2video"))  # its header counts no frames
    assert probe(timeless, MediaLimits(max_frames=11)).num_frames is None
    with pytest.raises(ClipError, match="12 frames, the limit is 11"):
        scan(timeless, MediaLimits(max_frames=11))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "ffv1", "gray"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_too_large_names_the_size_that_libav_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, pix_fmt: str
) -> None:
    path = make(tmp_path / name, Media(codec=codec, pix_fmt=pix_fmt))
    monkeypatch.setitem(probe_module._OPTIONS, "max_pixels", "1000")
    with pytest.raises(ClipError, match=r"pictures of 64x48, the limit is 1,000 pixels") as caught:
        probe(path, MediaLimits(max_pixels=1000))
    assert caught.value.code == "too_large"


def test_interlaced_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Media(options={"flags": "+ildct+ilme", "x264-params": "tff=1"}))
    assert code_of(path) == "interlaced"


def test_transparency_that_the_decoder_drops_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "a.webm", Media(codec="libvpx-vp9", pix_fmt="yuva420p"))
    with pytest.raises(ClipError, match="transparency") as caught:
        probe(source)
    assert caught.value.code == "unsupported_pixel_format"


def test_scan_counts_and_finds_cuts(tmp_path: Path) -> None:
    times = [0, 600, 1000, 3000, 3100, 3200, 4100, 5000, 5100, 6000, 9000, 9900, 10000, 10100, 10200, 10300]
    media = Media(num_frames=16, pts=times, time_base=Fraction(1, 30000), cut_at=7, options={"bf": "2"})
    path = make(tmp_path / "a.mp4", media)
    found = scan(path)
    assert (found.num_frames, found.pts, found.cuts) == (16, tuple(times), (7,))
    assert probe(path).variable_rate


def test_movement_is_no_cut(tmp_path: Path) -> None:
    assert scan(make(tmp_path / "a.mp4", Media(num_frames=20))).cuts == ()


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_damage_is_found(tmp_path: Path, codec: str) -> None:
    options = {"preset": "medium", "crf": "12", "x265-params": "log-level=error"}
    path = Path(make(tmp_path / "a.mp4", Media(num_frames=24, codec=codec, options=options)))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + data.index(b"moov")) // 2
    data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(data)
    with pytest.raises(ClipError) as caught:
        scan(str(path))
    assert caught.value.code == "damaged_video"


def test_a_few_wrong_bytes_are_found(tmp_path: Path) -> None:
    """The decoder patches over most of them without an error and only marks the picture."""
    path = Path(make(tmp_path / "a.mp4", Media(num_frames=24, options={"preset": "medium", "crf": "12"})))
    whole = path.read_bytes()
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov")
    reasons = []
    for place in range(10, 30):
        data = bytearray(whole)
        at = start + (end - start) * place // 60
        data[at : at + 6] = np.random.default_rng(place).bytes(6)
        path.write_bytes(data)
        try:
            scan(str(path))
        except ClipError as error:
            assert error.code == "damaged_video"
            reasons.append(error.reason)
    assert sum("the picture is damaged" in reason for reason in reasons) >= 5


@pytest.mark.parametrize("between_packets", [True, False])
def test_a_file_that_ends_early_is_found(tmp_path: Path, between_packets: bool) -> None:
    media = Media(num_frames=24, codec="mjpeg", pix_fmt="yuvj420p", tags=(5, 1, 1, 2))
    path = tmp_path / "a.mov"
    # Index first, as downloads have it: rewrite writes it so.
    rewrite(make(tmp_path / "source.mov", media), str(path), lambda frame: None)
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    end = positions[16]
    assert end is not None
    path.write_bytes(path.read_bytes()[: end if between_packets else end + 100])
    assert probe(str(path)).num_frames == 24
    with pytest.raises(ClipError) as caught:
        scan(str(path))
    assert caught.value.code == "damaged_video"


def test_a_change_of_size_is_found(tmp_path: Path) -> None:
    one = Path(make(tmp_path / "a.ts", Media(codec="mpeg2video")))
    other = Path(make(tmp_path / "b.ts", Media(codec="mpeg2video", width=80)))
    both = tmp_path / "c.ts"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    with pytest.raises(ClipError) as caught:
        scan(str(both))
    assert caught.value.code == "size_changed"


def test_gray_masks_come_back_bit_for_bit(tmp_path: Path) -> None:
    masks = (np.random.default_rng(1).random((5, 41, 53)) > 0.5).astype(np.uint8) * 255
    path = write_gray(tmp_path / "mask.mkv", masks)
    np.testing.assert_array_equal(np.stack(list(read_gray(path))), masks)
    np.testing.assert_array_equal(np.stack(list(read_gray(path, 2, 4))), masks[2:4])


def write_gray(path: Path, masks: NDArray[np.uint8]) -> str:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("ffv1", rate=25, width=masks.shape[2], height=masks.shape[1])
        stream.pix_fmt = "gray"
        for mask in masks:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(mask, "gray")))
        sink.mux(stream.encode(None))
    return str(path)


def test_gray_of_colour_video_has_full_range(tmp_path: Path) -> None:
    media = Media(num_frames=1, options={"crf": "0"})
    (gray,) = read_gray(make(tmp_path / "a.mp4", media))
    expected = picture(media, 0) @ np.array([0.2126, 0.7152, 0.0722])
    assert np.abs(gray - expected).mean() < 0.5


def test_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), np.rot90(pixels, -1))
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "deep.png"), gray=True), pixels[:, :, 0])
    clear = np.zeros((6, 9, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (read_image(str(tmp_path / "clear.png")) == 255).all()
    (tmp_path / "text.png").write_text("no image")
    for name, code in (("text.png", "not_an_image"), ("nope.png", "not_found")):
        with pytest.raises(ClipError) as caught:
            read_image(str(tmp_path / name))
        assert caught.value.code == code
