"""Make files that are no videos or whose headers lie, each with its expected error code."""

from __future__ import annotations

import io
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.support.media_files import Media, Sound, make
from vace_batch.video.writer import rewrite, write_clip


def good_video(folder: Path) -> bytes:
    """Return a small MP4 with its index first."""
    media = Media(num_frames=24, sounds=(Sound(),), options={"preset": "medium", "crf": "12"})
    rewrite(make(folder / "a.mp4", media), str(folder / "b.mp4"), lambda frame: None)
    return (folder / "b.mp4").read_bytes()


def write_broken(folder: Path, good: bytes) -> dict[str, str]:
    """Write truncated and damaged videos; return each file's name and error code."""
    index_last = Path(make(folder / "last.mp4", Media())).read_bytes()
    middle = _inside_a_picture(good)
    noise = np.random.default_rng(0).bytes(200)
    playlist = b"#EXTM3U\n#EXTINF:1,\nok.mp4\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    files = {
        "truncated_faststart.mp4": ("damaged_video", good[: len(good) * 6 // 10]),
        "truncated_moov_end.mp4": ("unreadable_video", index_last[: len(index_last) - 400]),
        "zero_byte.mp4": ("empty_file", b""),
        "text.mp4": ("not_a_video", b"no video at all\n" * 50),
        "html_error_page.mp4": ("not_a_video", b"<!DOCTYPE html><html><title>404</title></html>" * 20),
        "corrupt_middle.mp4": ("damaged_video", good[:middle] + noise + good[middle + 200 :]),
        "zeroed_middle.mp4": ("damaged_video", good[:middle] + bytes(400) + good[middle + 400 :]),
        "hls_playlist.mp4": ("not_a_video", playlist),
        "ffconcat.mp4": ("not_a_video", b"ffconcat version 1.0\nfile '/etc/passwd'\n"),
        "ffconcat_relative.mp4": ("not_a_video", b"ffconcat version 1.0\nfile 'ok.mp4'\n"),
        "unknown_codec.mp4": ("unsupported_codec", good.replace(b"avc1", b"zzzz")),
    }
    for name, (_, content) in files.items():
        (folder / name).write_bytes(content)
    return {name: code for name, (code, _) in files.items()}


def _inside_a_picture(video: bytes) -> int:
    """Return an offset one third into the largest picture but the first ones; the middle of a file may hold sound."""
    with av.open(io.BytesIO(video)) as container:
        packets = [(packet.size, packet.pos) for packet in container.demux(video=0) if packet.pos is not None]
    size, position = max(packets[len(packets) // 3 :])
    return position + size // 3


def write_lying(folder: Path, good: bytes) -> dict[str, str]:
    """Write lying streams and headers, and files too small or too sparse for their claims; `ok` marks usable files.

    `huge_declared.mp4` and `huge_real.mov` have no code here: several answers are right.
    """
    write_clip(folder / "tiny_2x2.mp4", np.zeros((5, 2, 2, 3), np.uint8), rate=Fraction(25))
    make(folder / "audio_only.mp4", Media(num_frames=0, sounds=(Sound(),)))
    make(folder / "sparse_1h.mp4", Media(num_frames=3, pts=[0, 45_000, 90_000], time_base=Fraction(1, 25)))
    one, other = (Path(make(folder / f"{w}.ts", Media(codec="mpeg2video", width=w))) for w in (64, 80))
    (folder / "size_changes.ts").write_bytes(one.read_bytes() + other.read_bytes())
    # Width and height of the sample description, 16 bits each; the stream's own header is not touched.
    (folder / "huge_declared.mp4").write_bytes(_with_box_size(good, b"avc1", 24, struct.pack(">HH", 65535, 65535)))
    huge = Media(codec="mjpeg", pix_fmt="yuvj420p", num_frames=1, tags=(5, 1, 1, 2))
    picture = Path(make(folder / "huge_real.mov", huge)).read_bytes()
    start = picture.index(b"\xff\xc0") + 5  # a JPEG frame header says height, then width
    picture = picture[:start] + struct.pack(">HH", 16000, 16000) + picture[start + 4 :]
    (folder / "huge_real.mov").write_bytes(_with_box_size(picture, b"jpeg", 24, struct.pack(">HH", 16000, 16000)))
    return {
        "tiny_2x2.mp4": "ok",
        "audio_only.mp4": "no_video_track",
        "sparse_1h.mp4": "ok",
        "size_changes.ts": "size_changed",
    }


def write_images(folder: Path) -> dict[str, str]:
    """Write pictures with names of videos."""
    for kind in ("JPEG", "PNG"):
        Image.new("RGB", (64, 48)).save(folder / f"{kind.lower()}_renamed.mp4", format=kind)
    return {"jpeg_renamed.mp4": "is_an_image", "png_renamed.mp4": "is_an_image"}


def write_special(folder: Path) -> dict[str, str]:
    """Write names that are no regular files."""
    (folder / "directory.mp4").mkdir()
    (folder / "dangling_link.mp4").symlink_to("nowhere.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(folder / "fifo.mp4")
    missing = ("dangling_link.mp4", "loop.mp4", "does_not_exist.mp4")
    return {"directory.mp4": "is_directory", "fifo.mp4": "not_a_file"} | dict.fromkeys(missing, "not_found")


def write_masks(folder: Path) -> dict[str, str]:
    """Write masks that do not fit the good video, for `mask_uri`."""
    write_clip(folder / "small.mp4", np.zeros((24, 24, 32, 3), np.uint8), rate=Fraction(25))
    write_clip(folder / "short.mp4", np.zeros((10, 48, 64, 3), np.uint8), rate=Fraction(25))
    return {"small.mp4": "mask_size_mismatch", "short.mp4": "mask_length_mismatch"}


def _with_box_size(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Return `data` with `value` at `offset` after the name of its first box `box`."""
    at = data.index(box) + 4 + offset
    return data[:at] + value + data[at + len(value) :]
