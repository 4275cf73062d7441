"""Choose an encoder's quality for a source: as fine as the source, and never coarser than the eye allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.video.encoders import Encoding, configure
from vace_batch.video.frame import Frame
from vace_batch.video.orientation import Orientation
from vace_batch.video.probe import VideoInfo, open_source, video_stream

TARGET_PSNR_DB = 47.5
"""Against the source, in RGB, over the sampled frames; the whole clip may come out a dB or so off it."""

ENOUGH_PSNR_DB = 52.0
"""The highest quality chosen, whatever the source's bit rate."""

_SECOND_GENERATION = 1.5
"""Bits of the result relative to the source's: the first encoder's traces cost bits too."""

_SAMPLED_PIXELS = 40_000_000
_PLACES = (Fraction(0), Fraction(2, 5), Fraction(4, 5))
_LONGEST_WAY_FRAMES = 300
_TRIALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """A codec's quality numbers: finest, coarsest, first tried, the step between them, and the dB per 1."""

    finest: float
    coarsest: float
    start: float
    step: float
    db: float
    decoder: str


_SCALES = {
    "libx264": _Scale(finest=2, coarsest=30, start=15, step=0.5, db=0.75, decoder="h264"),
    "libx265": _Scale(finest=2, coarsest=30, start=15, step=0.5, db=0.7, decoder="hevc"),
    "libvpx-vp9": _Scale(finest=1, coarsest=45, start=15, step=1, db=0.35, decoder="libvpx-vp9"),
    "libsvtav1": _Scale(finest=1, coarsest=50, start=15, step=1, db=0.35, decoder="libdav1d"),
}


@dataclass(slots=True, kw_only=True)
class _Sample:
    """Neighbouring frames, and the bytes that the source spends on them."""

    frames: list[av.VideoFrame]
    size: int


def choose_crf(info: VideoInfo, encoding: Encoding) -> Encoding:
    """Return `encoding` with the coarsest quality that keeps `TARGET_PSNR_DB` and spends bits as the source does.

    The bits are half as many again as the source's, or fewer where `ENOUGH_PSNR_DB` is reached. A few frames of the
    source are encoded a few times: the same source gives the same result. Encoders without a quality number, and
    sources whose frames cannot be read one by one, keep their encoding.
    """
    scale = _SCALES.get(encoding.codec)
    samples = _samples(info) if scale else []
    if scale is None or not samples:
        return encoding
    try:
        return _coarsest(encoding, info, samples, scale)
    except (av.error.FFmpegError, ClipError):
        return encoding  # the pass that writes reports the damage


def _coarsest(encoding: Encoding, info: VideoInfo, samples: list[_Sample], scale: _Scale) -> Encoding:
    crf = scale.start
    best: float | None = None
    failed = scale.coarsest + scale.step
    tried: set[float] = set()
    for _ in range(_TRIALS):
        tried.add(crf)
        margin = _margin_db(_with_crf(encoding, crf), info, samples, scale)
        if margin >= 0:
            best = crf if best is None else max(best, crf)
        else:
            failed = min(failed, crf)
        crf += math.floor(margin / scale.db / scale.step) * scale.step
        crf = max(min(max(crf, best or 0), failed - scale.step), scale.finest)
        if crf in tried:
            break
    return _with_crf(encoding, crf if best is None else best)


def _with_crf(encoding: Encoding, crf: float) -> Encoding:
    return replace(encoding, options=encoding.options | {"crf": f"{crf:g}"})


def _margin_db(encoding: Encoding, info: VideoInfo, samples: list[_Sample], scale: _Scale) -> float:
    """Return by how many dB a trial is better than required; negative if it is worse."""
    errors: list[float] = []
    size = spent = 0
    for sample in samples:
        made = _trial(encoding, info, sample)
        size += sum(map(len, made))
        spent += sample.size
        errors += _errors(sample.frames, made, scale.decoder)
    psnr = 10 * math.log10(255**2 / (float(np.mean(errors)) + 1e-9))
    # About 6 dB for each doubling of the bits.
    bits = 6 * math.log2(size / max(1, _SECOND_GENERATION * spent))
    return max(psnr - ENOUGH_PSNR_DB, min(psnr - TARGET_PSNR_DB, bits))


def _samples(info: VideoInfo) -> list[_Sample]:
    count = max(12, min(48, _SAMPLED_PIXELS // (info.coded_size.width * info.coded_size.height))) // len(_PLACES)
    samples = []
    with open_source(info.path) as container:
        stream = video_stream(container, info.path)
        length = int((info.duration_s or 0) / info.time_base)
        seen: set[int | None] = set()
        for place in _PLACES:
            try:
                sample = _sample(container, stream, int(length * place), count)
            except av.error.FFmpegError:
                break
            if not all(_fits(frame, info) for frame in sample.frames):
                break
            if not sample.frames or sample.frames[0].pts in seen:
                continue
            seen.add(sample.frames[0].pts)
            samples.append(sample)
    return samples


def _fits(frame: av.VideoFrame, info: VideoInfo) -> bool:
    """Return whether a frame has the size and the pixel format that the file's first frame has."""
    return Size(frame.width, frame.height) == info.coded_size and frame.format.name == info.pix_fmt


def _sample(container: InputContainer, stream: VideoStream, offset: int, count: int) -> _Sample:
    """Read `count` frames from `offset` after the start on, or from as near as a bounded number of frames leads."""
    start = (stream.start_time or 0) + offset
    if offset:
        container.seek(start, stream=stream)
    sample = _Sample(frames=[], size=0)
    passed = 0
    for packet in container.demux(stream):
        sample.size += packet.size
        for frame in packet.decode():
            if (frame.pts or 0) < start and passed < _LONGEST_WAY_FRAMES:
                passed += 1
                sample.size = 0
            else:
                sample.frames.append(frame)
        if len(sample.frames) >= count:
            break
    return sample


def _trial(encoding: Encoding, info: VideoInfo, sample: _Sample) -> list[bytes]:
    context = av.CodecContext.create(encoding.codec, "w")
    assert isinstance(context, VideoCodecContext)
    configure(context, replace(encoding, time_base=1 / encoding.rate), info)
    packets = []
    for index, frame in enumerate(sample.frames):
        frame.pict_type = av.video.frame.PictureType.NONE
        frame.pts = index
        frame.time_base = 1 / encoding.rate
        frame.duration = 1
        packets += context.encode(frame)
    return [bytes(packet) for packet in packets + context.encode(None)]


def _errors(frames: list[av.VideoFrame], packets: list[bytes], decoder: str) -> Iterator[float]:
    """Yield the mean squared error in 8-bit RGB of each frame but the first, which encoders favour."""
    context = av.CodecContext.create(decoder, "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    index = 0
    for data in [*packets, None]:
        for made in context.decode(av.Packet(data) if data is not None else None):
            if index or len(frames) == 1:
                difference = _rgb(frames[index]).astype(np.int16) - _rgb(made)
                yield float(np.square(difference, dtype=np.float32).mean(dtype=np.float64))
            index += 1


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return Frame(frame, index=0, pts=0, orientation=Orientation()).rgb()
