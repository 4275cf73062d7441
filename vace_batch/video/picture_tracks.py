"""Write the video track of an output file: encoded frame by frame, or copied group by group where nothing is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vace_batch.video.canvas_frames import Canvas, CanvasFrames
from vace_batch.video.encoders import Encoding, configure
from vace_batch.video.frame import Frame
from vace_batch.video.libav import refused_as
from vace_batch.video.probe import VideoInfo
from vace_batch.video.reader import Decoder
from vace_batch.video.splice import SplicedTrack, to_encode
from vace_batch.video.splice_plan import SplicePlan
from vace_batch.video.tracks import copy_stream_labels, mux


class PictureTrack(Protocol):
    """The video track of an output file: takes the source's packets in file order, writes its own to the file."""

    @property
    def num_frames(self) -> int:
        """The number of frames written so far."""

    def feed(self, packet: Packet[Stream]) -> None:
        """Take the next packet of the source's video track; an empty one flushes the decoder.

        Raises:
            ClipError: as `Decoder.feed`, and cannot_write.
        """

    def finish(self) -> None:
        """Write every frame that is still held, after the last packet.

        Raises:
            ClipError: cannot_write.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackTarget:
    """The two ends of a video track: `source` of the file read, described by `info`, and `sink`, the file written."""

    sink: OutputContainer
    muxer: str
    source: VideoStream
    info: VideoInfo


class CopiedTrack:
    """The video track of a `SplicePlan`: packets copied from the source, and packets encoded again."""

    def __init__(self, target: TrackTarget, plan: SplicePlan, edit: Callable[[Frame], None]) -> None:
        self._sink, info = target.sink, target.info
        boxed = target.muxer in ("mp4", "mov") and (info.hdr.mastering or info.hdr.content_light)
        if boxed and "timecode" not in target.source.metadata:
            # Carries the HDR10 boxes over; but not the rate, which a timecode track is made from.
            stream = target.sink.add_stream_from_template(target.source, opaque=True)
        else:
            stream = add_video(target.sink, plan.encoding.codec, plan.encoding.rate)
            configure(stream.codec_context, plan.encoding, info)
            stream.codec_context.open()
            if info.display_matrix:
                stream.set_display_matrix(info.display_matrix)
        stream.time_base = info.time_base
        stream.codec_context.extradata = plan.extradata
        _copy_tag(target, stream)
        copy_stream_labels(target.source, stream)
        self._track = SplicedTrack(stream, target.source, info, plan, edit)

    @property
    def num_frames(self) -> int:
        return self._track.num_frames

    def feed(self, packet: Packet[Stream]) -> None:
        for made in self._track.feed(packet):
            mux(self._sink, made)

    def finish(self) -> None:
        self._track.finish()


class EncodedTrack:
    """The video track encoded frame by frame: packets of the source in, packets with the source's time stamps out."""

    def __init__(
        self, target: TrackTarget, encoding: Encoding, edit: Callable[[Frame], None], canvas: Canvas | None = None
    ) -> None:
        self._sink = target.sink
        self._edit = edit
        self._canvas_frames = CanvasFrames(canvas, target.info) if canvas else None
        info = canvas.info(target.info) if canvas else target.info
        self._decoder = Decoder(target.source, info.path)
        self._encoding = encoding
        self._time_base = info.time_base
        # AVI has no clock but the frame rate, and fills every gap of a finer one with empty frames.
        self._count = target.muxer == "avi" and info.container != "avi"
        self._stream = add_video(target.sink, encoding.codec, encoding.rate)
        configure(self._stream.codec_context, encoding, info)
        self._stream.time_base = encoding.time_base if self._count else info.time_base
        if info.display_matrix:
            self._stream.set_display_matrix(info.display_matrix)
        _copy_tag(target, self._stream)
        copy_stream_labels(target.source, self._stream)
        self._times: dict[int, tuple[int, int]] = {}
        self._num_frames = 0

    @property
    def num_frames(self) -> int:
        return self._num_frames

    def feed(self, packet: Packet[Stream]) -> None:
        frames = self._decoder.feed(packet)
        self._add(self._canvas_frames.feed(frames) if self._canvas_frames else frames)

    def finish(self) -> None:
        if self._canvas_frames:
            self._add(self._canvas_frames.finish())
        self._encode(None)
        if self._times:
            raise RuntimeError(f"{self._encoding.codec} did not return {len(self._times)} of {self._num_frames} frames")

    def _add(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self._edit(frame)
            native = to_encode(frame)
            duration = native.duration
            native.pts = frame.index if self._encoding.frame_clock else frame.pts
            native.time_base = self._encoding.time_base
            self._times[native.pts] = (frame.pts, duration)
            native.duration = 1 if self._encoding.frame_clock else duration
            self._num_frames += 1
            self._encode(native)

    def _encode(self, native: av.VideoFrame | None) -> None:
        """Encode a frame, or the frames that the encoder still holds, and write the packets."""
        with refused_as("cannot_write", f"{self._encoding.codec} cannot encode frame {self._num_frames}"):
            packets = self._stream.encode(native)
        for packet in packets:
            assert packet.pts is not None
            pts, duration = self._times.pop(packet.pts)
            if self._encoding.frame_clock and not self._count:
                packet.pts = packet.dts = pts
                packet.time_base = self._time_base
            if not self._count:
                packet.duration = duration
            mux(self._sink, packet)


def add_video(sink: OutputContainer, codec: str, rate: Fraction) -> VideoStream:
    """Add a video track for the encoder `codec`."""
    stream = sink.add_stream(codec, rate=rate)
    assert isinstance(stream, VideoStream)
    return stream


def _copy_tag(target: TrackTarget, stream: VideoStream) -> None:
    """Give HEVC in MP4 the source's codec tag, by default hvc1: Apple's players read no other."""
    if target.muxer not in ("mp4", "mov") or stream.codec_context.name not in ("libx265", "hevc"):
        return
    info = target.info
    kept = target.source.codec_context.codec_tag if info.codec == "hevc" and info.container in ("mp4", "mov") else None
    stream.codec_context.codec_tag = kept if kept in ("hvc1", "hev1") else "hvc1"
