"""Write video: `rewrite` replaces the pictures of a file and nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.encoders import EncoderSettings, Encoding, choose_encoding
from vace_batch.video.frame import SWS_FLAGS, Frame
from vace_batch.video.picture_tracks import CopiedTrack, EncodedTrack, PictureTrack, TrackTarget, add_video
from vace_batch.video.probe import VideoInfo, open_source, probe, video_stream
from vace_batch.video.rate_control import choose_crf
from vace_batch.video.reader import demux
from vace_batch.video.sink import muxer_options, open_sink
from vace_batch.video.splice import SpliceFailed, check_result
from vace_batch.video.splice_plan import Edited, SplicePlan, as_predicate, plan_splice
from vace_batch.video.tracks import add_copies, check_sound, copy_labels, copy_packet

__all__ = ["EncoderSettings", "WriteReport", "check_output", "encode_lossless", "rewrite", "write_clip"]

TONE_RATE_HZ = 48_000
_TONE_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """The written file; `notes` name, for people, each property of the source that could not be kept.

    `copied_frames` are bit for bit those of the source: their groups of pictures were not encoded again.
    """

    num_frames: int
    codec: str
    notes: tuple[str, ...] = ()
    copied_frames: int = 0


def check_output(info: VideoInfo, dst: str, settings: EncoderSettings, canvas: Canvas | None = None) -> None:
    """Check, before any work is done, that `rewrite` can write to `dst`.

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
    chooses the container: .mp4 .mov .mkv .webm .avi .ts .mxf; any other suffix keeps the container of `src`. A failure
    leaves no `dst`.

    `edited` names the frames that `edit` changes; other frames are not passed to `edit`, and groups of pictures without
    edited frames are copied bit for bit where that is safe. With None every frame is edited and encoded again. Frames
    are passed to `edit` in rising order; if the joined file does not decode as planned, every frame is encoded again,
    and frames are passed a second time from the first one on.

    With a `canvas` the output is larger or longer than `src`, frames count from its first added frame, and the other
    tracks keep their place beside the pictures.

    Raises:
        ClipError: as `probe` and `read_frames`, unsupported_pixel_format, and cannot_write when the container refuses
            the streams.
        OSError: the disk is full or fails; no verdict on the video.
        ValueError: `dst` is `src`.
    """
    if os.path.realpath(src) == os.path.realpath(dst):
        raise ValueError(f"rewrite: expected dst to be another file than src, got {dst} for both")
    settings = settings or EncoderSettings()
    info = probe(src)
    muxer = info.container_for(dst)
    encoding = choose_encoding(canvas.info(info) if canvas else info, settings, muxer)
    if settings.crf is None:
        encoding = choose_crf(info, encoding)
    output = _Output(info=info, dst=dst, muxer=muxer, encoding=encoding, canvas=canvas)
    if edited is None:
        return output.encode(edit)
    return output.encode_edited(edit, as_predicate(edited))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    """A file to write: `info` of its source, and how its pictures are encoded."""

    info: VideoInfo
    dst: str
    muxer: str
    encoding: Encoding
    canvas: Canvas | None

    def encode(self, edit: Callable[[Frame], None], notes: tuple[str, ...] = ()) -> WriteReport:
        """Encode every frame."""
        return self._write(lambda target: EncodedTrack(target, self.encoding, edit, self.canvas), notes)

    def encode_edited(self, edit: Callable[[Frame], None], is_edited: Callable[[int], bool]) -> WriteReport:
        """Encode the groups of pictures with edited frames and copy the others; encode all where that is not safe."""
        plan = "the canvas grows" if self.canvas else plan_splice(self.info, self.muxer, self.encoding, is_edited)
        if isinstance(plan, SplicePlan) and plan.copied_frames:
            try:
                return self.splice(plan, edit)
            except SpliceFailed as failure:
                plan = f"the joined file was wrong ({failure})"

        def edit_some(frame: Frame) -> None:
            if is_edited(frame.index):
                edit(frame)

        return self.encode(edit_some, (f"every frame was encoded again: {plan}",) if isinstance(plan, str) else ())

    def splice(self, plan: SplicePlan, edit: Callable[[Frame], None]) -> WriteReport:
        """Copy the groups of pictures that `plan` keeps, encode the others, and check the result.

        Raises:
            SpliceFailed: the joined track is not as planned.
        """
        report = self._write(lambda target: CopiedTrack(target, plan, edit), ())
        check_result(self.dst, plan, self.info)
        return replace(report, copied_frames=plan.copied_frames)

    def _write(self, make_track: Callable[[TrackTarget], PictureTrack], notes: tuple[str, ...]) -> WriteReport:
        info, muxer = self.info, self.muxer
        lead_s = self.canvas.lead_s(info) if self.canvas else Fraction(0)
        written = [*self.encoding.notes, *_container_notes(info, muxer), *notes]
        with open_source(info.path) as source, open_sink(self.dst, muxer, muxer_options(source, info, muxer)) as sink:
            stream = video_stream(source, info.path)
            track = make_track(TrackTarget(sink=sink, muxer=muxer, source=stream, info=info))
            copies = add_copies(source, sink, stream, muxer, written)
            copy_labels(source, sink, lead_s)
            wanted = [each for each in source.streams if each is stream or each.index in copies]
            for packet in demux(source, info.path, *wanted):
                if packet.stream.index == stream.index:
                    track.feed(packet)
                elif packet.size:
                    copy_packet(packet, copies[packet.stream_index], sink, lead_s)
            track.finish()
        return WriteReport(num_frames=track.num_frames, codec=self.encoding.codec, notes=tuple(written))


def encode_lossless(frames_THWC: NDArray[np.uint8], rate: Fraction | int = 25) -> bytes:
    """Encode (T, H, W, 3) RGB as lossless H.264 in Matroska; `frames_from_bytes` returns the same bits.

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
    with open_sink(path, None, {"fflags": "+bitexact"}) as sink:
        sink.metadata.update(tags)
        stream = add_video(sink, codec, rate)
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
            frame.sample_rate = TONE_RATE_HZ
            frame.pts = self._done
            frame.time_base = Fraction(1, TONE_RATE_HZ)
            self._sink.mux(self._stream.encode(frame))
            self._done += count

    def finish(self) -> None:
        self._sink.mux(self._stream.encode(None))


def _container_notes(info: VideoInfo, muxer: str) -> list[str]:
    notes = []
    if muxer != info.container:
        notes.append(f"container {info.container} written as {muxer.capitalize() if len(muxer) > 4 else muxer}")
    if info.display_matrix and muxer not in ("mp4", "mov", "matroska", "webm"):
        notes.append(f"rotation left out: {muxer} does not keep it")
    return notes


def _configure_clip(stream: VideoStream, first_HWC: NDArray[np.uint8], codec: str, crf: int) -> None:
    stream.height, stream.width = first_HWC.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1
    context.color_range = ColorRange.MPEG.value
    context.options = {"crf": str(crf), "threads": "1", "flags": "+bitexact"}
    if codec == "libx264":
        context.options |= {"preset": "veryfast", "x264-params": "mbtree=0"}
