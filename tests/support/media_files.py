"""Makes the video files that tests read: real encoders, small pictures, everything decided by arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

AUDIO_RATE_HZ = 48_000


@dataclass(frozen=True, kw_only=True)
class Sound:
    """An AAC (or Opus, PCM) track with a tone of its own."""

    seconds: float = 1.0
    start_s: float = 0.0
    hertz: float = 440.0
    language: str = "und"
    codec: str = "aac"
    disposition: int = 0


@dataclass(frozen=True, kw_only=True)
class Media:
    """One test file; the defaults are 12 frames of 64x48 H.264 at 25 fps, tagged BT.709 limited range."""

    width: int = 64
    height: int = 48
    num_frames: int = 12
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    rate: Fraction = Fraction(25)
    pts: Sequence[int] | None = None
    time_base: Fraction | None = None
    tags: tuple[int, int, int, int] = (1, 1, 1, 1)  # matrix, primaries, transfer, range (1 limited, 2 full)
    rotation: int = 0
    hflip: bool = False
    sample_aspect_ratio: Fraction | None = None
    sounds: tuple[Sound, ...] = ()
    subtitles: tuple[str, ...] = ()
    subtitle_codec: str = "mov_text"
    chapters: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    timecode: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None


def picture(media: Media, index: int) -> NDArray[np.uint8]:
    """A smooth ramp that moves, with a square in it: (H, W, 3); after `cut_at` another scene altogether."""
    y, x = np.mgrid[0 : media.height, 0 : media.width]
    image = np.stack([40 + x + 2 * index, 60 + y, 200 - x], axis=-1) % 236
    if media.cut_at is not None and index >= media.cut_at:
        image = np.stack([250 - 2 * y, 20 + x // 2, 30 + y], axis=-1)
    left, top = 6 + index % 8, media.height // 4
    image[top : top + 12, left : left + 12] = (220, 40, 30)
    return np.clip(image, 0, 255).astype(np.uint8)


def make(path: Path, media: Media) -> str:
    """Write `media` to `path` (its suffix is the container) and return the path as text."""
    container_options = {"fflags": "+bitexact"}
    if media.time_base and path.suffix in (".mp4", ".mov"):
        container_options["video_track_timescale"] = str(media.time_base.denominator)
    if any(key.startswith("com.") for key in media.metadata):
        container_options["movflags"] = "+use_metadata_tags"
    with av.open(str(path), "w", container_options=container_options) as sink:
        sink.metadata.update(media.metadata)
        if media.chapters:
            sink.set_chapters(_chapters(media))
        stream: Any = sink.add_stream(media.codec, rate=media.rate)
        _configure(stream, media)
        sounds = [(_sound_stream(sink, sound), sound) for sound in media.sounds]
        captions: Any = sink.add_mux_stream(media.subtitle_codec) if media.subtitles else None
        for stream_out, sound in sounds:
            for packet in _sound_packets(stream_out, sound):
                sink.mux(packet)
        for number, line in enumerate(media.subtitles):
            sink.mux(_caption(captions, media.subtitle_codec, number, line))
        for index in range(media.num_frames):
            sink.mux(stream.encode(_frame(media, index)))
        sink.mux(stream.encode(None))
    return str(path)


def _configure(stream: Any, media: Media) -> None:
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = media.width, media.height, media.pix_fmt
    if media.time_base:
        context.time_base = media.time_base
        stream.time_base = media.time_base
    if media.sample_aspect_ratio:
        context.sample_aspect_ratio = media.sample_aspect_ratio
    context.colorspace, context.color_primaries, context.color_trc, context.color_range = media.tags
    quick = {"libx264": {"preset": "ultrafast", "crf": "10"}, "libvpx-vp9": {"crf": "10", "b": "0", "cpu-used": "8"}}
    context.options = {"threads": "1", "flags": "+bitexact"} | quick.get(media.codec, {}) | media.options
    if media.rotation or media.hflip:
        stream.set_display_rotation(media.rotation, hflip=media.hflip)
    if media.timecode:
        stream.metadata["timecode"] = media.timecode


def _frame(media: Media, index: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(media, index), "rgb24")
    if media.pix_fmt not in ("gbrp", "bgr0"):
        matrix = {1: 1, 5: 5, 6: 5, 9: 9}.get(media.tags[0], 5 if media.height <= 576 else 1)
        frame = frame.reformat(
            format=media.pix_fmt,
            src_color_range=2,
            dst_colorspace=matrix,
            dst_color_range=media.tags[3] or 1,
            interpolation=_EXACT,
        )
    frame.pts = media.pts[index] if media.pts else index
    frame.time_base = media.time_base or 1 / media.rate
    return frame


def _sound_stream(sink: Any, sound: Sound) -> Any:
    stream = sink.add_stream(sound.codec, rate=AUDIO_RATE_HZ)
    stream.codec_context.layout = "mono"
    stream.metadata["language"] = sound.language
    if sound.disposition:
        stream.disposition = sound.disposition
    return stream


def _sound_packets(stream: Any, sound: Sound) -> list[Any]:
    count = int(sound.seconds * AUDIO_RATE_HZ)
    wave = 0.2 * np.sin(2 * np.pi * sound.hertz * np.arange(count) / AUDIO_RATE_HZ)
    packets = []
    for start in range(0, count, 960):
        block = (wave[None, start : start + 960] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
        frame.sample_rate = AUDIO_RATE_HZ
        frame.pts, frame.time_base = start + int(sound.start_s * AUDIO_RATE_HZ), Fraction(1, AUDIO_RATE_HZ)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _caption(stream: Any, codec: str, number: int, line: str) -> Any:
    """A line shown for a tenth of a second, every fifth."""
    text = line.encode()
    packet = av.Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = 200 * number
    packet.duration = 100
    return packet


def _chapters(media: Media) -> list[Any]:
    return [
        {"id": n, "start": 200 * n, "end": 200 * n + 200, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
        for n, title in enumerate(media.chapters)
    ]


_EXACT = (
    av.video.reformatter.Interpolation.BICUBIC
    | av.video.reformatter.Interpolation.ACCURATE_RND
    | av.video.reformatter.Interpolation.FULL_CHR_H_INP
)
