"""Choose the encoder and its settings for a source's codec."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import av
import av.error
from av.video.codeccontext import VideoCodecContext

from vace_batch.errors import ClipError
from vace_batch.video.probe import VideoInfo

DEFAULT_RATE = Fraction(25)
"""Frame rate for encoders of video without a rate of its own; time stamps do not depend on it."""

_ENCODER = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "prores": "prores_ks",
    "mpeg4": "mpeg4",
    "mpeg2video": "mpeg2video",
    "mjpeg": "mjpeg",
    "dnxhd": "dnxhd",
    "ffv1": "ffv1",
    "huffyuv": "huffyuv",
    "utvideo": "utvideo",
    "png": "png",
    "qtrle": "qtrle",
    "v210": "v210",
    "rawvideo": "rawvideo",
}

_DEFAULT_CRF = {"libx264": 10, "libx265": 10, "libvpx": 4, "libvpx-vp9": 9, "libsvtav1": 11}
_DEFAULT_PRESET = {"libx264": "fast", "libx265": "veryfast", "libsvtav1": "8"}

# These take any time base and write every pts through. The others count frames: they get the index as time.
_KEEPS_PTS = frozenset({"libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1"})

_PRORES_PROFILE = {"Proxy": "proxy", "LT": "lt", "Standard": "standard", "HQ": "hq", "4444": "4444", "XQ": "4444xq"}
_DNXHR_PROFILE = {"DNXHR LB": "dnxhr_lb", "DNXHR SQ": "dnxhr_sq", "DNXHR HQ": "dnxhr_hq", "DNXHR HQX": "dnxhr_hqx"}

# The chroma location that decoders assume for untagged video; "center" for all other codecs.
_USUAL_LOCATION = {"libx264": "left", "libx265": "left", "mpeg4": "left", "mpeg2video": "left"}
_SAYS_LOCATION = frozenset({"libx264", "libx265", "libsvtav1"})
_CONTAINER_SAYS_LOCATION = frozenset({"matroska", "webm"})

# x264 chooses a profile by pixel format, and a higher one than sources of these profiles have.
_X264_PROFILE = {"Baseline": "baseline", "Constrained Baseline": "baseline", "Main": "main"}

# Key frames come where the source has them; this is the longest time without one.
_LONGEST_GOP_FRAMES = "300"

# Pixel formats that decoders produce and that no encoder of the same codec accepts, with the format written instead.
_FEWER_BITS = {
    "yuv422p12le": "yuv422p10le",
    "yuv444p12le": "yuv444p10le",
    "yuva444p12le": "yuva444p10le",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """The user's settings of the encoder.

    `crf` None: chosen by trial for each source, see `choose_crf`. `preset` None: by encoder. `threads` is fixed, not
    "as many as there are", so that equal input gives equal bytes on every machine.
    """

    crf: int | None = None
    preset: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise ValueError(f"crf: expected 0 to 63, got {self.crf}")
        if self.threads < 1:
            raise ValueError(f"threads: expected at least 1, got {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A chosen encoder, its pixel format and options. `frame_clock`: frames are given their index, not pts, as time."""

    codec: str
    pix_fmt: str
    options: dict[str, str]
    frame_clock: bool
    time_base: Fraction
    rate: Fraction
    notes: tuple[str, ...] = ()


def choose_encoding(info: VideoInfo, settings: EncoderSettings, container: str | None = None) -> Encoding:
    """Choose the encoder of the source's own codec, or a modern one and a note about it.

    `container` is the one to write, by default the source's.

    Raises:
        ClipError: unsupported_pixel_format; cannot_write when the container keeps no variable frame rate.
    """
    container = container or info.output_container
    if container == "avi" and info.variable_rate and info.container != "avi":
        raise ClipError("cannot_write", f"{info.path}: AVI keeps no variable frame rate; choose .mkv or .mp4")
    fallbacks = ("libvpx-vp9", "libsvtav1") if container == "webm" else ("libx264", "libx265")
    pix_fmts = [info.pix_fmt, _FEWER_BITS.get(info.pix_fmt)]
    for pix_fmt in filter(None, pix_fmts):
        for codec in filter(None, (own_encoder(info.codec), *fallbacks)):
            encoding = _encoding(codec, pix_fmt, info, settings, container)
            if _muxes(container, codec) and _opens(encoding, info):
                return encoding
    wanted = f"{info.codec} in {info.pix_fmt}"
    raise ClipError("unsupported_pixel_format", f"{info.path}: no encoder for {wanted} in {container}")


def own_encoder(codec: str) -> str | None:
    """Return the encoder of the codec that the decoder `codec` reads."""
    return _ENCODER.get(codec)


def configure(context: VideoCodecContext, encoding: Encoding, info: VideoInfo) -> None:
    """Set an encoder's size, format, rate, colours and options before it is opened."""
    context.width, context.height = info.coded_size.width, info.coded_size.height
    context.pix_fmt = encoding.pix_fmt
    context.framerate = encoding.rate
    context.time_base = encoding.time_base
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    context.colorspace = info.matrix
    context.color_primaries = info.primaries
    context.color_trc = info.trc
    context.color_range = info.color_range
    context.options = dict(encoding.options)


def open_encoder(encoding: Encoding, info: VideoInfo) -> VideoCodecContext:
    """Open an encoder that counts frames and puts headers into the stream."""
    context = av.CodecContext.create(encoding.codec, "w")
    assert isinstance(context, VideoCodecContext)
    configure(context, replace(encoding, time_base=1 / encoding.rate), info)
    context.open()
    return context


def _encoding(codec: str, pix_fmt: str, info: VideoInfo, settings: EncoderSettings, container: str) -> Encoding:
    frame_clock = codec not in _KEEPS_PTS or container == "avi"
    rate = info.average_rate or DEFAULT_RATE
    if frame_clock:
        # MPEG-4 allows no finer clock than 1/65535 s.
        rate = rate.limit_denominator(1001)
    if codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it prints its settings to stderr otherwise
    notes = _losses(codec, pix_fmt, info)
    options = _options(codec, info, settings, container)
    if info.chroma_location not in (None, _USUAL_LOCATION.get(codec, "center")):
        options["chroma_sample_location"] = info.chroma_location
        if codec not in _SAYS_LOCATION and container not in _CONTAINER_SAYS_LOCATION:
            notes.append(f"chroma location {info.chroma_location} left out: {codec} in {container} does not store it")
    return Encoding(
        codec=codec,
        pix_fmt=pix_fmt,
        options=options,
        frame_clock=frame_clock,
        time_base=1 / rate if frame_clock else info.time_base,
        rate=rate,
        notes=tuple(notes),
    )


def _losses(codec: str, pix_fmt: str, info: VideoInfo) -> list[str]:
    """Name each property of the source that `codec` in `pix_fmt` does not keep."""
    losses = []
    if codec != _ENCODER.get(info.codec):
        losses.append(f"video codec {info.codec} written with {codec}")
    if pix_fmt != info.pix_fmt:
        losses.append(f"pixel format {info.pix_fmt} written as {pix_fmt}")
    if info.hdr.dynamic:
        losses.append(
            f"{' and '.join(info.hdr.dynamic)} left out of re-encoded frames: they cannot be passed to {codec}"
        )
    if (info.hdr.mastering or info.hdr.content_light) and codec not in ("libx264", "libx265", "libsvtav1"):
        losses.append(f"HDR10 mastering and light levels left out: {codec} does not take them")
    return losses


def _options(codec: str, info: VideoInfo, settings: EncoderSettings, container: str) -> dict[str, str]:
    crf = str(settings.crf if settings.crf is not None else _DEFAULT_CRF.get(codec, 0))
    preset = settings.preset or _DEFAULT_PRESET.get(codec, "")
    threads = settings.threads
    # 118 is quality 1 in libav's lambda units; no B-frames, as these encoders keep no display times.
    fixed_quality = {"flags": "+bitexact+qscale", "global_quality": "118", "qmin": "1", "bf": "0"}
    prores = _PRORES_PROFILE.get(info.profile or "", "auto")
    dnxhr = _DNXHR_PROFILE.get(info.profile or "", "dnxhr_hqx" if info.bit_depth > 8 else "dnxhr_hq")
    gop = {"g": _LONGEST_GOP_FRAMES}
    x26x = {"crf": crf, "preset": preset, "forced-idr": "1"} | gop
    by_codec = {
        # Macroblock-tree rate control gave other bytes on other processors. Finer chroma: most of the RGB error is
        # there, and six steps of it cost less than one step of crf.
        "libx264": x26x
        | {"x264-params": _params("mbtree=0:cpu-independent=1:chroma-qp-offset=-6", _hdr_params("libx264", info))}
        | _x264_profile(info),
        # libav's x265 leaves closed captions out by default.
        "libx265": x26x
        | {
            "a53cc": "1",
            "x265-params": _params(
                f"pools=none:frame-threads={threads}:wpp=0:log-level=error:open-gop=0", _hdr_params("libx265", info)
            ),
        },
        # VP8 ignores crf without a rate.
        "libvpx": {"crf": crf, "b": "200M", "qmin": "0", "deadline": "good", "cpu-used": "4"} | gop,
        "libvpx-vp9": {"crf": crf, "b": "0", "deadline": "good", "cpu-used": "4"} | gop,
        "libsvtav1": {
            "crf": crf,
            "preset": preset,
            "svtav1-params": _params(f"lp={threads}", _hdr_params("libsvtav1", info)),
        }
        | gop,
        "mpeg4": fixed_quality,
        "mpeg2video": fixed_quality,
        "mjpeg": fixed_quality,
        "prores_ks": {"profile": prores},
        "dnxhd": {"profile": dnxhr},
        "ffv1": {"level": "3", "coder": "1", "context": "1", "slicecrc": "1"},
    }
    options = {"threads": str(threads), "flags": "+bitexact"} | by_codec.get(codec, {})
    # AVI stores no display times. MP4 stores display times only as differences to decoding times: with B-frames at a
    # variable rate, the last frame's end and so the average rate come out wrong.
    if "avi" in (info.container, container) or (info.variable_rate and container in ("mp4", "mov")):
        options["bf"] = "0"
    return options


def _params(*parts: str) -> str:
    return ":".join(filter(None, parts))


def _hdr_params(codec: str, info: VideoInfo) -> str:
    """Format mastering display and light levels as `codec` reads them."""
    names = {
        "libx264": ("mastering-display", "cll", info.hdr.mastering_text),
        "libx265": ("master-display", "max-cll", info.hdr.mastering_text),
        "libsvtav1": ("mastering-display", "content-light", info.hdr.mastering_real),
    }
    display, light, mastering = names[codec]
    parts = [f"{display}={mastering}"] if mastering else []
    if info.hdr.content_light:
        parts.append("{}={},{}".format(light, *info.hdr.content_light))
    return ":".join(parts)


def _x264_profile(info: VideoInfo) -> dict[str, str]:
    """Return the source's H.264 profile and level as options; none for other codecs."""
    if info.codec != "h264":
        return {}
    profile = {"profile": name} if (name := _X264_PROFILE.get(info.profile or "")) else {}
    return profile | ({"level": str(info.level)} if info.level else {})


@lru_cache(maxsize=64)
def _muxes(container: str, codec: str) -> bool:
    with av.open(io.BytesIO(), "w", format=container) as trial:
        try:
            trial.add_stream(codec)
        except ValueError:
            return False
    return True


def _opens(encoding: Encoding, info: VideoInfo) -> bool:
    """Return whether the encoder opens: only opening one shows which sizes, rates and formats it refuses."""
    context = av.CodecContext.create(encoding.codec, "w")
    assert isinstance(context, VideoCodecContext)
    formats = context.codec.video_formats
    if formats and encoding.pix_fmt not in {each.name for each in formats}:
        return False
    configure(context, encoding, info)
    try:
        context.open()
    except av.error.FFmpegError:
        return False
    return True
