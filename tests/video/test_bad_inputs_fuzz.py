"""Small files with wrong bytes: the probe and the scan answer with a word or with a video, never with a crash."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.errors import ClipError
from vace_batch.video.probe import probe
from vace_batch.video.shots import scan

SECONDS = 4.0


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes flipped, fields set to extremes, a stretch cut out, doubled or moved; often near the start or the end."""
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
    """Files whose header asks for too much memory, and for which libav says "try again" (ENOMEM, EAGAIN)."""
    path = tmp_path / f"mutated{suffix}"
    media = Media(num_frames=6, codec=codec, sounds=(Sound(seconds=0.2),))
    path.write_bytes(mutated(Path(make(tmp_path / f"whole{suffix}", media)).read_bytes(), np.random.default_rng(seed)))
    with pytest.raises(ClipError) as caught:
        probe(str(path))
        scan(str(path))
    assert caught.value.code in ("unreadable_video", "damaged_video")


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx265"), (".ts", "mpeg2video"), (".avi", "mjpeg")]
)
def test_mutated_files_are_told_or_read(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    pix_fmt, tags = ("yuvj420p", (5, 1, 1, 2)) if codec == "mjpeg" else ("yuv420p", (1, 1, 1, 1))
    media = Media(num_frames=6, codec=codec, options=options, sounds=(Sound(seconds=0.2),), pix_fmt=pix_fmt, tags=tags)
    whole = Path(make(tmp_path / f"whole{suffix}", media)).read_bytes()
    path, codes = tmp_path / f"mutated{suffix}", dict[str, int]()
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
