"""Small files with wrong bytes: probe, scan and rewrite give a video or a ClipError, never a crash."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.frame import Frame
from vace_batch.video.probe import probe
from vace_batch.video.shots import scan
from vace_batch.video.writer import rewrite

SECONDS = 4.0


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bytes, set fields to extremes, or cut out, double or move a stretch, often near the start or the end."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        near_edge = random.random() < 0.6
        reach = min(len(changed), 600) if near_edge else len(changed)
        at = int(random.integers(0, reach))
        at = len(changed) - 1 - at if near_edge and random.random() < 0.7 else at
        match int(random.integers(0, 5)):
            case 0:
                changed[at] ^= 1 << int(random.integers(0, 8))
            case 1:
                changed[at : at + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"][
                    int(random.integers(0, 3))
                ]
            case 2:
                del changed[at : at + int(random.integers(1, 40))]
            case 3:
                changed[at:at] = changed[at : at + int(random.integers(1, 40))]
            case _:
                changed[at : at + 8] = random.bytes(8)
    return bytes(changed)


@pytest.mark.parametrize(("suffix", "codec", "seed"), [(".mp4", "libx264", 325), (".ts", "mpeg2video", 271)])
def test_libavs_other_words_are_told_too(tmp_path: Path, suffix: str, codec: str, seed: int) -> None:
    """A header that asks for too much memory (ENOMEM), and a stream whose reading libav postpones (EAGAIN)."""
    path = tmp_path / f"mutated{suffix}"
    media = Media(num_frames=6, codec=codec, sounds=(Sound(seconds=0.2),))
    path.write_bytes(mutated(Path(make(tmp_path / f"whole{suffix}", media)).read_bytes(), np.random.default_rng(seed)))
    with pytest.raises(ClipError) as caught:
        probe(str(path))
        scan(str(path))
    assert caught.value.code in ("unreadable_video", "damaged_video")


def test_colour_tags_that_nothing_converts_are_refused(tmp_path: Path) -> None:
    """swscale answers ENOTSUP to a sequence extension with 255 for all colour tags."""
    path, whole = tmp_path / "mutated.ts", tmp_path / "whole.ts"
    make(whole, Media(num_frames=6, codec="mpeg2video", sounds=(Sound(seconds=0.2),)))
    path.write_bytes(mutated(whole.read_bytes(), np.random.default_rng(1474)))
    with pytest.raises(ClipError, match="colour matrix 255") as caught:
        scan(str(path))
    assert caught.value.code == "unsupported_pixel_format"


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx265"), (".ts", "mpeg2video"), (".avi", "mjpeg")]
)
def test_mutated_files_are_told_or_read(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    pix_fmt, tags = ("yuvj420p", (5, 1, 1, 2)) if codec == "mjpeg" else ("yuv420p", (1, 1, 1, 1))
    media = Media(num_frames=6, codec=codec, options=options, sounds=(Sound(seconds=0.2),), pix_fmt=pix_fmt, tags=tags)
    whole = Path(make(tmp_path / f"whole{suffix}", media)).read_bytes()
    path = tmp_path / f"mutated{suffix}"
    codes: dict[str, int] = {}
    deadline, seed, slowest = time.monotonic() + SECONDS, 0, 0.0
    while time.monotonic() < deadline:
        path.write_bytes(mutated(whole, np.random.default_rng(seed)))
        started = time.monotonic()
        try:
            probe(str(path))
            scan(str(path))
            code = "ok"
        except ClipError as error:
            assert error.reason and not error.retryable
            code = error.code
        except Exception as error:
            pytest.fail(f"seed {seed} of {suffix}: {type(error).__name__}: {error}")
        codes[code] = codes.get(code, 0) + 1
        slowest, seed = max(slowest, time.monotonic() - started), seed + 1
    assert seed > 20 and len(codes) >= 2 and slowest < 10, (seed, codes, slowest)


def paint(frame: Frame) -> None:
    box = Box(4, 4, 8, 8)
    frame.paste(box, frame.rgb(box)[::-1], np.ones((8, 8), np.float32))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".ts", "mpeg2video")])
def test_mutated_files_are_refused_or_rewritten(tmp_path: Path, suffix: str, codec: str) -> None:
    """Whole and spliced: damage that only decoding, encoding or muxing meets leaves a reason and no file."""
    media = Media(num_frames=6, codec=codec, sounds=(Sound(seconds=0.2),))
    whole = Path(make(tmp_path / f"whole{suffix}", media)).read_bytes()
    path, target = tmp_path / f"mutated{suffix}", tmp_path / f"out{suffix}"
    codes: dict[str, int] = {}
    deadline, seed = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        path.write_bytes(mutated(whole, np.random.default_rng(seed)))
        settings = EncoderSettings(crf=30 if seed % 5 else None)
        try:
            report = rewrite(str(path), str(target), paint, settings, [(0, 2)] if seed % 2 else None)
            assert report.num_frames and target.exists()
            target.unlink()
            code = "ok"
        except ClipError as error:
            assert error.reason and not error.retryable and not target.exists()
            code = error.code
        except Exception as error:
            pytest.fail(f"seed {seed} of {suffix}: {type(error).__name__}: {error}")
        codes[code] = codes.get(code, 0) + 1
        seed += 1
    assert seed > 20 and len(codes) >= 2, (seed, codes)
