"""Writing video: `rewrite` replaces the pictures of a file and nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vace_batch.video.canvas_frames import Canvas, CanvasFrames
from vace_batch.video.encoders import EncoderSettings, Encoding, choose_encoding, configure
from vace_batch.video.frame import SWS_FLAGS, Frame
from vace_batch.video.libav import refused_as
from vace_batch.video.probe import VideoInfo, local_url, open_source, probe, video_stream
from vace_batch.video.rate_control import calibrate
from vace_batch.video.reader import Decoder, demux
from vace_batch.video.splice import SplicedTrack, SpliceFailed, check_result, to_encode
from vace_batch.video.splice_plan import Edited, SplicePlan, as_predicate, plan_splice
from vace_batch.video.tracks import add_copies, check_sound, copy_labels, copy_packet, copy_stream_labels, mux

__all__ = ["EncoderSettings", "WriteReport", "check_output", "encode_lossless", "rewrite", "write_clip"]

TONE_RATE_HZ = 48_000
_TONE_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """What was written; `words` says for people what could not be kept as it was.

    `copied_frames` are bit for bit those of the source: their groups of pictures were not encoded again.
    """

    num_frames: int
    codec: str
    words: tuple[str, ...] = ()
    copied_frames: int = 0


def check_output(info: VideoInfo, dst: str, settings: EncoderSettings, canvas: Canvas | None = None) -> None:
    """Refuse what `rewrite` could not write to `dst`, before anything is made for it.

    Raises:
        ClipError: unsupported_pixel_format, cannot_write.
    """
    muxer = info.container_for(dst)
    choose_encoding(canvas.info(info) if canvas else info, settings, muxer)
    with open_source(info.path) as source:
        check_sound(source, muxer)


def rewrite(
    src: str,
    dst: str,
    edit: Callable[[Frame], None],
    settings: EncoderSettings | None = None,
    edited: Edited | None = None,
    canvas: Canvas | None = None,
) -> WriteReport:
    """Write `src` to `dst` with the pictures passed through `edit`, in constant memory.

    Frame count, time stamps, size, rotation, pixel aspect, pixel format, colour tags, HDR10 metadata, labels, chapters
    and timecode are those of `src`; audio, subtitles and attachments are copied packet by packet. The suffix of `dst`
    chooses the container: .mp4 .mov .mkv .webm .avi .ts .mxf, any other means the container of `src`. A failure leaves
    no `dst`.

    `edited` says which frames `edit` changes; the others are not given to it, and groups of pictures without any are
    copied bit for bit where that is safe. None: all frames, and everything is encoded again. Frames come to `edit` in
    rising order; if the joined file does not decode as it should, everything is encoded again and they come once more,
    from the first one on.

    With a `canvas` the output is larger or longer than `src`, frames count from its first added one, and the other
    tracks keep their place beside the pictures.

    Raises:
        ClipError: as `probe` and `read_frames`, unsupported_pixel_format, and cannot_write when the container refuses
            the streams.
        OSError: the disk is full or fails; nothing is said about the video.
        ValueError: `dst` is `src`.
    """
    if os.path.realpath(src) == os.path.realpath(dst):
        raise ValueError(f"rewrite: expected dst to be another file than src, got {dst} for both")
    settings = settings or EncoderSettings()
    info = probe(src)
    muxer = info.container_for(dst)
    encoding = choose_encoding(canvas.info(info) if canvas else info, settings, muxer)
    if settings.crf is None:
        encoding = calibrate(info, encoding)
    words = list(encoding.words) + _container_words(info, muxer)
    chosen = edit
    if edited is not None:
        is_edited = as_predicate(edited)
        chosen = lambda frame: edit(frame) if is_edited(frame.index) else None  # noqa: E731
        plan = "the canvas grows" if canvas else plan_splice(info, muxer, encoding, is_edited)
        if isinstance(plan, str):
            words.append(f"every frame was encoded again: {plan}")
        elif plan.copied_frames:
            try:
                report = _write(info, dst, muxer, edit, encoding, plan, words)
                check_result(dst, plan, info)
                return report
            except SpliceFailed as failure:
                words.append(f"every frame was encoded again: the joined file was wrong ({failure})")
    return _write(info, dst, muxer, chosen, encoding, None, words, canvas)


def _write(
    info: VideoInfo,
    dst: str,
    muxer: str,
    edit: Callable[[Frame], None],
    encoding: Encoding,
    plan: SplicePlan | None,
    words: list[str],
    canvas: Canvas | None = None,
) -> WriteReport:
    words = list(words)
    with open_source(info.path) as source, _open_sink(dst, muxer, _muxer_options(source, info, muxer)) as sink:
        track = video_stream(source, info.path)
        picture: _Picture | _Joined
        if plan is None:
            picture = _Picture(sink, track, info, encoding, muxer, edit, canvas)
        else:
            picture = _Joined(sink, track, info, plan, muxer, edit)
        copies = add_copies(source, sink, track, muxer, words)
        copy_labels(source, sink, canvas.lead_s(info) if canvas else Fraction(0))
        wanted = [stream for stream in source.streams if stream is track or stream.index in copies]
        for packet in demux(source, info.path, *wanted):
            if packet.stream.index == track.index:
                picture.feed(packet)
            elif packet.size:
                copy_packet(packet, copies[packet.stream_index], sink, canvas.lead_s(info) if canvas else Fraction(0))
        picture.finish()
    copied = plan.copied_frames if plan else 0
    return WriteReport(num_frames=picture.num_frames, codec=encoding.codec, words=tuple(words), copied_frames=copied)


def encode_lossless(frames_THWC: NDArray[np.uint8], rate: Fraction | int = 25) -> bytes:
    """(T, H, W, 3) RGB as lossless H.264 in Matroska; `frames_from_bytes` gives the same bits back.

    A fifth of FFV1's time on one core, and no larger: a window must be stored while the device makes the next one.
    """
    file = io.BytesIO()
    height, width = frames_THWC.shape[1:3]
    with av.open(file, "w", format="matroska", container_options={"fflags": "+bitexact"}) as sink:
        stream = sink.add_stream("libx264rgb", rate=Fraction(rate), width=width, height=height)
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"preset": "ultrafast", "qp": "0", "flags": "+bitexact"}
        for index, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), "rgb24")
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return file.getvalue()


def write_clip(
    path: str,
    frames: Iterable[NDArray[np.uint8]],
    *,
    rate: Fraction,
    tone_hz: float | None = None,
    codec: str = "libx264",
    crf: int = 12,
    **tags: str,
) -> None:
    """Write (H, W, 3) RGB frames as BT.709 video, with a tone as long as the video if `tone_hz` is given.

    `tags` are container metadata. For demos and tests. A failure leaves no file.

    Raises:
        ValueError: there are no frames.
    """
    with _open_sink(path, None, {"fflags": "+bitexact"}) as sink:
        sink.metadata.update(tags)
        stream = _add_video(sink, codec, rate)
        tone = _Tone(sink, tone_hz) if tone_hz else None
        count = 0
        for count, frame_HWC in enumerate(frames, start=1):
            if count == 1:
                _configure_clip(stream, frame_HWC, codec, crf)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), "rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=SWS_FLAGS,
                threads=1,
            )
            frame.pts, frame.time_base = count - 1, 1 / rate
            sink.mux(stream.encode(frame))
            if tone:
                tone.until(count / rate)
        if not count:
            raise ValueError("write_clip: expected at least one frame, got none")
        sink.mux(stream.encode(None))
        if tone:
            tone.finish()


class _Joined:
    """The video track of a `SplicePlan`: copied packets and encoded ones."""

    def __init__(
        self,
        sink: OutputContainer,
        source: VideoStream,
        info: VideoInfo,
        plan: SplicePlan,
        muxer: str,
        edit: Callable[[Frame], None],
    ) -> None:
        self._sink = sink
        boxed = muxer in ("mp4", "mov") and (info.hdr.mastering or info.hdr.content_light)
        if boxed and "timecode" not in source.metadata:
            # Carries the HDR10 boxes over; but not the rate, which a timecode track is made from.
            stream = sink.add_stream_from_template(source, opaque=True)
        else:
            stream = _add_video(sink, plan.encoding.codec, plan.encoding.rate)
            configure(stream.codec_context, plan.encoding, info)
            stream.codec_context.open()
            if info.display_matrix:
                stream.set_display_matrix(info.display_matrix)
        stream.time_base = info.time_base
        stream.codec_context.extradata = plan.extradata
        _copy_tag(source, stream, info, muxer)
        copy_stream_labels(source, stream)
        self._track = SplicedTrack(sink, stream, source, info, plan, edit)

    def feed(self, packet: Packet[Stream]) -> None:
        for made in self._track.feed(packet):
            mux(self._sink, made)

    def finish(self) -> None:
        self._track.finish()

    @property
    def num_frames(self) -> int:
        return self._track.num_frames


class _Picture:
    """The re-encoded video track: packets of the source in, packets with its time stamps out."""

    def __init__(
        self,
        sink: OutputContainer,
        source: VideoStream,
        info: VideoInfo,
        encoding: Encoding,
        muxer: str,
        edit: Callable[[Frame], None],
        canvas: Canvas | None = None,
    ) -> None:
        self._sink = sink
        self._edit = edit
        self._canvas_frames = CanvasFrames(canvas, info) if canvas else None
        info = canvas.info(info) if canvas else info
        self._decoder = Decoder(source, info.path)
        self._encoding = encoding
        self._time_base = info.time_base
        # AVI has no clock but the frame rate, and fills every gap of a finer one with empty frames.
        self._count = muxer == "avi" and info.container != "avi"
        self._stream = _add_video(sink, encoding.codec, encoding.rate)
        configure(self._stream.codec_context, encoding, info)
        self._stream.time_base = encoding.time_base if self._count else info.time_base
        if info.display_matrix:
            self._stream.set_display_matrix(info.display_matrix)
        _copy_tag(source, self._stream, info, muxer)
        copy_stream_labels(source, self._stream)
        self._times: dict[int, tuple[int, int]] = {}
        self.num_frames = 0

    def feed(self, packet: Packet[Stream]) -> None:
        frames = self._decoder.feed(packet)
        self._add(self._canvas_frames.feed(frames) if self._canvas_frames else frames)

    def _add(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self._edit(frame)
            self._encode(frame)

    def _encode(self, frame: Frame) -> None:
        native = to_encode(frame)
        duration = native.duration
        native.pts = frame.index if self._encoding.frame_clock else frame.pts
        native.time_base = self._encoding.time_base
        self._times[native.pts] = (frame.pts, duration)
        native.duration = 1 if self._encoding.frame_clock else duration
        self.num_frames += 1
        with self._encoding_refused():
            packets = self._stream.encode(native)
        self._mux(packets)

    def finish(self) -> None:
        if self._canvas_frames:
            self._add(self._canvas_frames.finish())
        with self._encoding_refused():
            packets = self._stream.encode(None)
        self._mux(packets)
        if self._times:
            raise RuntimeError(f"{self._encoding.codec} kept {len(self._times)} of {self.num_frames} frames to itself")

    def _encoding_refused(self) -> AbstractContextManager[None]:
        return refused_as("cannot_write", f"{self._encoding.codec} refuses a frame, {self.num_frames} were given to it")

    def _mux(self, packets: Iterable[Packet[VideoStream]]) -> None:
        for packet in packets:
            assert packet.pts is not None
            pts, duration = self._times.pop(packet.pts)
            if self._encoding.frame_clock and not self._count:
                packet.pts = packet.dts = pts
                packet.time_base = self._time_base
            if not self._count:
                packet.duration = duration
            mux(self._sink, packet)


class _Tone:
    """A quiet sine as an AAC track, written in step with the pictures."""

    def __init__(self, sink: OutputContainer, hertz: float) -> None:
        self._sink = sink
        self._hertz = hertz
        self._stream: AudioStream = sink.add_stream("aac", rate=TONE_RATE_HZ)
        self._stream.codec_context.layout = "mono"
        self._stream.codec_context.bit_rate = 64_000
        self._stream.codec_context.options = {"flags": "+bitexact"}
        self._done = 0

    def until(self, time_s: Fraction) -> None:
        end = int(time_s * TONE_RATE_HZ)
        while self._done < end:
            count = min(_TONE_BLOCK, end - self._done)
            times_s = (np.arange(self._done, self._done + count) / TONE_RATE_HZ).astype(np.float32)
            samples = 0.1 * np.sin(2 * np.pi * self._hertz * times_s, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None, :].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = TONE_RATE_HZ, self._done, Fraction(1, TONE_RATE_HZ)
            self._sink.mux(self._stream.encode(frame))
            self._done += count

    def finish(self) -> None:
        self._sink.mux(self._stream.encode(None))


@contextmanager
def _open_sink(path: str, muxer: str | None, options: dict[str, str]) -> Iterator[OutputContainer]:
    """An output file that is removed when the block, or its trailer, fails."""
    sink = av.open(local_url(path), "w", format=muxer, container_options=options, metadata_errors="surrogateescape")
    try:
        yield sink
        with refused_as("cannot_write", f"the {sink.format.name} muxer cannot end its file"):
            sink.close()
    except BaseException:
        with suppress(av.error.FFmpegError):
            sink.close()
        if os.path.isfile(path):
            os.unlink(path)
        raise


def _add_video(sink: OutputContainer, codec: str, rate: Fraction) -> VideoStream:
    stream = sink.add_stream(codec, rate=rate)
    assert isinstance(stream, VideoStream)
    return stream


def _muxer_options(source: InputContainer, info: VideoInfo, muxer: str) -> dict[str, str]:
    options = {"fflags": "+bitexact"}
    if muxer in ("mp4", "mov"):
        # QuickTime's reverse-domain keys have no place in the plain metadata box.
        keys = "+use_metadata_tags" if any(key.startswith("com.") for key in source.metadata) else ""
        options["movflags"] = "+faststart" + keys
        if info.time_base.numerator == 1:
            options["video_track_timescale"] = str(info.time_base.denominator)
    elif muxer == "avi":
        # Sound that begins before the first picture, as AAC does, would move the pictures by a frame.
        options["avoid_negative_ts"] = "disabled"
    elif muxer == "mpegts":
        options["mpegts_copyts"] = "1"
    return options


def _copy_tag(source: VideoStream, target: VideoStream, info: VideoInfo, muxer: str) -> None:
    """Apple's players read HEVC under the tag hvc1 only; a source in MP4 keeps the tag it has."""
    if muxer not in ("mp4", "mov") or target.codec_context.name not in ("libx265", "hevc"):
        return
    kept = source.codec_context.codec_tag if info.codec == "hevc" and info.container in ("mp4", "mov") else "hvc1"
    target.codec_context.codec_tag = kept if kept in ("hvc1", "hev1") else "hvc1"


def _container_words(info: VideoInfo, muxer: str) -> list[str]:
    words = []
    if muxer != info.container:
        words.append(f"container {info.container} written as {muxer.capitalize() if len(muxer) > 4 else muxer}")
    if info.display_matrix and muxer not in ("mp4", "mov", "matroska", "webm"):
        words.append(f"rotation left out: {muxer} does not keep it")
    return words


def _configure_clip(stream: VideoStream, first_HWC: NDArray[np.uint8], codec: str, crf: int) -> None:
    stream.height, stream.width = first_HWC.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1
    context.color_range = ColorRange.MPEG.value
    context.options = {"crf": str(crf), "threads": "1", "flags": "+bitexact"}
    if codec == "libx264":
        context.options |= {"preset": "veryfast", "x264-params": "mbtree=0"}
