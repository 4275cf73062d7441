"""Probe a video file safely: its content decides, its name is never a protocol, playlists are never followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.stream import VideoStream

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.options import MediaLimits
from vace_batch.video.chroma import chroma_location
from vace_batch.video.hdr import Hdr
from vace_batch.video.libav import is_machine_error
from vace_batch.video.orientation import Orientation
from vace_batch.video.planes import is_editable

MAX_PIXELS = 8192 * 8192
"""Largest picture that is decoded; a small file may claim any size."""

_KINDS = "its content is no container that is read (MP4, MKV, AVI, TS, ...; playlists are not followed)"
_CONVERT = "; convert the video first, as to yuv420p or yuv422p10le"
_BY_BWDIF = ", as by `ffmpeg -i IN -vf bwdif OUT`"

_SUFFIX = {
    "mp4": ".mp4",
    "mov": ".mov",
    "matroska": ".mkv",
    "webm": ".webm",
    "avi": ".avi",
    "mpegts": ".ts",
    "mxf": ".mxf",
}

_DEMUXERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "mxf", "ogg", "flv", "asf")
_IMAGE_DEMUXERS = ("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "jpegxl_pipe", "gif")

_OPTIONS = {
    "format_whitelist": ",".join(_DEMUXERS + _IMAGE_DEMUXERS),
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """The facts that a video's header and first frame give.

    `size` is in display orientation, `coded_size` as stored. `rotation` is the counter-clockwise angle, in degrees,
    that a player turns the stored picture by; `display_matrix` the whole 3x3 matrix (16.16) when there is one.
    `num_frames` and `variable_rate` are the header's claims; `scan` counts. `level` is the codec's own number;
    `matrix`, `primaries`, `trc` and `color_range` are libav's (2, 2, 2, 0: untagged);
    `chroma_location` is libav's name, None where chroma is not subsampled.
    """

    path: str
    container: str
    codec: str
    profile: str | None
    level: int | None
    pix_fmt: str
    bit_depth: int
    size: Size
    coded_size: Size
    rotation: int
    display_matrix: tuple[int, ...] | None
    num_frames: int | None
    time_base: Fraction
    average_rate: Fraction | None
    variable_rate: bool
    duration_s: Fraction | None
    sample_aspect_ratio: Fraction | None
    matrix: int
    primaries: int
    trc: int
    color_range: int
    chroma_location: str | None
    hdr: Hdr
    num_audio: int
    num_subtitles: int

    @property
    def orientation(self) -> Orientation:
        return Orientation.from_matrix(self.display_matrix)

    @property
    def suffix(self) -> str:
        """File name suffix of the container that `rewrite` writes, such as ".mp4"."""
        return _SUFFIX[self.output_container]

    @property
    def output_container(self) -> str:
        """The container that `rewrite` writes: the file's own, or Matroska for read-only ones (FLV, MPEG-PS)."""
        return self.container if self.container in _SUFFIX else "matroska"

    def container_for(self, dst: str) -> str:
        """Return the container that the suffix of `dst` names; `output_container` for any other suffix."""
        suffix = os.path.splitext(dst)[1].lower()
        chosen = [name for name, own in _SUFFIX.items() if own == suffix.replace(".m4v", ".mp4")]
        return chosen[0] if chosen else self.output_container


def probe(path: str, limits: MediaLimits | None = None) -> VideoInfo:
    """Read the header of `path` and, if it is within `limits`, decode its first frame.

    Raises:
        ClipError: not_found, is_directory, not_a_file, no_permission, empty_file, not_a_video, unreadable_video,
            is_an_image, no_video_track, unsupported_codec, unsupported_pixel_format, too_large, too_long,
            too_many_streams, no_frames, interlaced.
    """
    limits = limits or MediaLimits()
    with open_source(path) as container:
        stream = video_stream(container, path, limits.max_pixels)
        check_frames(path, stream.frames, limits)
        _check_header(container, stream, path, limits)
        frame = _first_frame(container, stream, path)
        _check_pixels(stream, frame, path)
        matrix = display_matrix(frame)
        coded = Size(frame.width, frame.height)
        return VideoInfo(
            path=path,
            container=_container_name(container, path),
            codec=stream.codec_context.codec.canonical_name,
            profile=stream.codec_context.profile,
            level=level if (level := stream.codec_context.level) > 0 else None,
            pix_fmt=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            size=Orientation.from_matrix(matrix).display_size(coded),
            coded_size=coded,
            rotation=frame.rotation % 360,
            display_matrix=matrix,
            num_frames=stream.frames or None,
            time_base=stream.time_base or Fraction(1, 1000),
            average_rate=stream.average_rate or stream.guessed_rate or None,
            variable_rate=_is_variable(stream),
            duration_s=_duration(container, stream),
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            matrix=int(frame.colorspace),
            primaries=int(frame.color_primaries),
            trc=int(frame.color_trc),
            color_range=int(frame.color_range),
            chroma_location=chroma_location(frame),
            hdr=Hdr.of(frame),
            num_audio=len(container.streams.audio),
            num_subtitles=len(container.streams.subtitles),
        )


@contextmanager
def open_source(path: str) -> Iterator[InputContainer]:
    """Open a local video file for reading.

    Raises:
        ClipError: as `probe`, for what concerns the file as a whole.
    """
    _check_file(path)
    try:
        # "file:" and an absolute path: a name such as "concat:a|b" or "-i" is a name.
        container = av.open(local_url(path), options=_OPTIONS, metadata_errors="surrogateescape")
    except av.error.FFmpegError as error:
        if error.errno == errno.ENOMEM:  # a machine short of memory would kill the process instead
            raise ClipError(
                "unreadable_video", f"{path}: its header is damaged: it asks for more memory than a video needs"
            ) from error
        if is_machine_error(error):
            raise
        if _starts_as_mp4(path):
            raise ClipError("unreadable_video", f"{path}: its index is missing; the file was cut off") from error
        raise ClipError("not_a_video", f"{path}: not a video file: {_KINDS}") from error
    with container:
        if container.format.name in _IMAGE_DEMUXERS:
            kind = container.format.name.removesuffix("_pipe")
            raise ClipError("is_an_image", f"{path}: an image ({kind}), not a video")
        yield container


def local_url(path: str) -> str:
    """Return a URL of which libav takes every character of `path` literally."""
    return "file:" + os.path.abspath(path)


def video_stream(container: InputContainer, path: str, max_pixels: int = MAX_PIXELS) -> VideoStream:
    """Return the first video track that is not a cover picture; its decoder is set to one thread.

    Raises:
        ClipError: no_video_track, unsupported_codec, too_large.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        raise ClipError("no_video_track", f"{path}: has no video track")
    context = stream.codec_context
    if context is None:
        raise ClipError("unsupported_codec", f"{path}: no decoder here reads its video track; convert the video")
    # libav drops a size over the limit that `open_source` gives it.
    size = Size(context.width, context.height) if context.width and context.height else _unlimited_size(path)
    if size is not None and size.width * size.height > max_pixels:
        # No option lifts the limit beyond what is ever decoded.
        hint = "; --limit max_pixels=N sets another" if max_pixels < MAX_PIXELS else ""
        raise ClipError("too_large", f"{path}: pictures of {size}, the limit is {max_pixels:,} pixels{hint}")
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels)}
    return stream


def _unlimited_size(path: str) -> Size | None:
    """Read the size of a video's pictures whatever the size is, without memory for a picture; None without a size."""
    options = {name: value for name, value in _OPTIONS.items() if name != "max_pixels"} | {"skip_frame": "all"}
    with contextlib.suppress(av.error.FFmpegError):
        with av.open(local_url(path), options=options, metadata_errors="surrogateescape") as container:
            for stream in container.streams.video:
                if stream.width and stream.height and not stream.disposition & Disposition.attached_pic:
                    return Size(stream.width, stream.height)
    return None


def check_frames(path: str, num_frames: int, limits: MediaLimits) -> None:
    """Refuse more frames than the limit.

    Raises:
        ClipError: too_long.
    """
    if num_frames > limits.max_frames:
        raise ClipError("too_long", f"{path}: {num_frames:,} frames, {_over('max_frames', limits.max_frames)}")


def _over(limit: str, value: float) -> str:
    return f"the limit is {value:,.10g}; --limit {limit}=N sets another"


def _check_header(container: InputContainer, stream: VideoStream, path: str, limits: MediaLimits) -> None:
    duration_s = _duration(container, stream)
    if duration_s is not None and duration_s > limits.max_duration_s:
        reason = f"{path}: {float(duration_s):,.0f} s long, {_over('max_duration_s', limits.max_duration_s)}"
        raise ClipError("too_long", reason)
    tracks = 1 + len(container.streams.audio) + len(container.streams.subtitles)
    if tracks > limits.max_streams:
        raise ClipError("too_many_streams", f"{path}: {tracks} tracks, {_over('max_streams', limits.max_streams)}")


def _check_pixels(stream: VideoStream, frame: av.VideoFrame, path: str) -> None:
    """Refuse pixels that `Frame.paste` cannot edit or that a decoder loses."""
    if not is_editable(frame.format.name):
        raise ClipError(
            "unsupported_pixel_format", f"{path}: pixel format {frame.format.name} cannot be edited{_CONVERT}"
        )
    if stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 keep alpha beside the picture, and libav drops it
        raise ClipError(
            "unsupported_pixel_format",
            f"{path}: transparent video (alpha_mode) is not supported: the transparency would be lost{_CONVERT}",
        )


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the frame's 3x3 display matrix, row major, 16.16 fixed point; None if it has no matrix."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return tuple(memoryview(data).cast("i")) if isinstance(data, SideData) else None


def check_progressive(frame: av.VideoFrame, path: str) -> None:
    """Refuse an interlaced frame.

    Raises:
        ClipError: interlaced.
    """
    if frame.interlaced_frame:
        raise ClipError("interlaced", f"{path}: interlaced video is not supported; deinterlace it first{_BY_BWDIF}")


def _check_file(path: str) -> None:
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise ClipError("is_directory", f"{path}: a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ClipError("not_a_file", f"{path}: not a regular file")
    if status.st_size == 0:
        raise ClipError("empty_file", f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise ClipError("no_permission", f"{path}: no permission to read it")


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except PermissionError as error:
        raise ClipError("no_permission", f"{path}: no permission to read it") from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ClipError("not_found", f"{path}: no such file") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise ClipError("not_found", f"{path}: {error.strerror}") from error


def _starts_as_mp4(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat")


def _first_frame(container: InputContainer, stream: VideoStream, path: str) -> av.VideoFrame:
    packets = 0
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            for frame in packet.decode():
                check_progressive(frame, path)
                return frame
    except av.error.FFmpegError as error:
        raise ClipError("unreadable_video", f"{path}: its first frame cannot be decoded ({error.strerror})") from error
    if packets:
        raise ClipError("unreadable_video", f"{path}: none of its {packets} video packets decodes to a frame")
    raise ClipError("no_frames", f"{path}: its video track has no frames")


def _container_name(container: InputContainer, path: str) -> str:
    name = container.format.name
    if name.startswith("mov,"):
        brand = container.metadata.get("major_brand", "qt  ")
        return "mov" if brand.strip() == "qt" else "mp4"
    if name.startswith("matroska"):
        with open(path, "rb") as file:
            # The DocType element (id 42 82) stands in the first bytes of the EBML header.
            return "webm" if b"\x42\x82\x84webm" in file.read(128) else "matroska"
    return name.partition(",")[0]


def _is_variable(stream: VideoStream) -> bool:
    """Return whether frames come at a variable rate.

    libav's base rate is the slowest clock that meets all time stamps: at a constant rate, the rate itself.
    """
    if not stream.base_rate or not stream.average_rate:
        return True
    return abs(stream.base_rate / stream.average_rate - 1) > Fraction(1, 200)


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the duration in seconds, of the track or else of the file."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, 1_000_000) if container.duration else None
