"""Smart rendering: copy groups of pictures without edits packet by packet, and encode the others again.

A group begins at a key frame from which on everything is shown later than everything before it. A copied group may be
followed by encoded frames in any case. A copied group after encoded frames must stand alone: no picture in it may refer
to a picture before it. Groups of H.264 and HEVC that begin at IDR pictures stand alone, and all groups of codecs whose
key frames reset everything. In an open group of HEVC only the frames shown before its key frame look back; they are
encoded again, and the key frame is marked as a place where streams were joined (CRA becomes BLA; H.265, 8.1.3). Open
groups of H.264 are encoded again up to the next IDR picture.

The number of packets stays the same, so the decoding times of the source serve copied and encoded packets. Parameter
sets of both encodings stand in the track's header under different numbers: a player may seek anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import av
import av.error
import numpy as np
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vace_batch.errors import ClipError
from vace_batch.video import nal
from vace_batch.video.encoders import open_encoder
from vace_batch.video.frame import Frame
from vace_batch.video.probe import VideoInfo, open_source, video_stream
from vace_batch.video.reader import Decoder, demux
from vace_batch.video.splice_plan import Run, SplicePlan


class SpliceFailed(Exception):
    """The joined track is not as planned; a full encode can still be done."""


class SplicedTrack:
    """Writes the video track of a `SplicePlan`: packets of the source in, packets of the result out."""

    def __init__(
        self,
        target: VideoStream,
        source: VideoStream,
        info: VideoInfo,
        plan: SplicePlan,
        edit: Callable[[Frame], None],
    ) -> None:
        self._target = target
        self._info = info
        self._plan = plan
        self._edit = edit
        self._decoder = Decoder(source, info.path)
        self._next = 0
        self._read = self._written = self._until = 0
        self._held: Packet[Stream] | None = None
        self._encoder: VideoCodecContext | None = None

    def feed(self, packet: Packet[Stream]) -> Iterator[Packet[Any]]:
        """Yield the packets of the result that follow from the next packet of the source.

        Raises:
            ClipError: as `Decoder.feed`, and source_changed.
            SpliceFailed: an encoder refuses a frame, or gives other frames than planned.
        """
        if not packet.size:
            return
        while self._read == self._until:
            self._begin()
        index = self._read
        self._read += 1
        if self._run.edited:
            yield from self._encoded_again(packet, index)
        else:
            yield self._copied_over(packet, index)

    def _copied_over(self, packet: Packet[Stream], index: int) -> Packet[Any]:
        """Copy packet `index` of a copied run; the decoder sees the packet if frames of the next run refer to it."""
        following = self._planned(self._next)
        if following and index >= following.entry:
            self._warm_up(packet, index, following)
        return self._copied(packet, cut=self._run.cut and index == self._run.key)

    def _encoded_again(self, packet: Packet[Stream], index: int) -> Iterator[Packet[Any]]:
        """Decode packet `index` of an edited run, and yield its frames edited and encoded."""
        following = self._planned(self._next)
        if index == self._run.entry:
            self._decoder.jump(self._run.first)
        if following and index == following.key:
            self._held = packet
        yield from self._edited(self._decoder.feed(packet))
        if self._read == self._until:
            yield from self._end(following)

    def _end(self, following: Run | None) -> Iterator[Packet[Any]]:
        """Flush decoder and encoder, and yield the key frame that was read with an edited run."""
        yield from self._edited(self._decoder.feed(None))
        yield from self._encoded(None)
        if self._written != (stop := self._run.stop):
            raise SpliceFailed(
                f"{stop - self._written} frames before {stop} are missing from the output of the encoder"
            )
        if self._held is not None and following is not None:
            after = self._planned(self._next + 1)
            if after is not None and after.entry == following.key:
                self._warm_up(self._held, following.key, after)
            yield self._copied(self._held, cut=True)
        self._held = None

    def _warm_up(self, packet: Packet[Stream], index: int, run: Run) -> None:
        """Decode a copied packet to which frames of `run` refer."""
        if index == run.entry:
            self._decoder.jump(run.first)
        for _ in self._decoder.feed(packet):
            pass

    def finish(self) -> None:
        """Check, after the last packet, that every planned frame was written.

        Raises:
            ClipError: source_changed.
        """
        if self._written != len(self._plan.pts):
            lost = len(self._plan.pts) - self._written
            raise ClipError(
                "source_changed",
                f"{self._info.path}: the file changed while it was read, {lost} frames are missing",
                retryable=True,
            )

    @property
    def num_frames(self) -> int:
        return self._written

    def _planned(self, number: int) -> Run | None:
        """Return run `number` of the plan; None after the last run."""
        return self._plan.runs[number] if number < len(self._plan.runs) else None

    def _begin(self) -> None:
        if self._next == len(self._plan.runs):
            raise ClipError(
                "source_changed",
                f"{self._info.path}: the file changed while it was read, it has more frames",
                retryable=True,
            )
        self._run = self._plan.runs[self._next]
        self._next += 1
        self._until = self._run.stop
        if self._run.edited:
            try:
                self._encoder = open_encoder(self._plan.encoding, self._info)
            except av.error.FFmpegError as error:
                raise SpliceFailed(f"the encoder does not open ({error.strerror})") from error
            following = self._planned(self._next)
            if following and following.key < following.start:  # the key frame stands before the last frames of this run
                self._until += 1

    def _edited(self, frames: Iterable[Frame]) -> Iterator[Packet[Any]]:
        for frame in frames:
            if not self._run.start <= frame.index < self._run.stop:
                continue
            if frame.pts != self._plan.pts[frame.index]:
                raise SpliceFailed(f"frame {frame.index} came at {frame.pts}, not at {self._plan.pts[frame.index]}")
            if self._plan.edited(frame.index):
                self._edit(frame)
            yield from self._encoded(frame)

    def _copied(self, packet: Packet[Stream], *, cut: bool) -> Packet[Any]:
        pts = packet.dts if self._info.container == "avi" else packet.pts
        header = self._plan.header
        if not cut or header is None:
            return self._stamped(packet, pts)
        alone: Packet[Any] = Packet(header.packet(map(nal.as_broken_link, header.units(bytes(packet)))))
        alone.is_keyframe = True
        return self._stamped(alone, pts)

    def _encoded(self, frame: Frame | None) -> Iterator[Packet[Any]]:
        assert self._encoder is not None
        native = None
        if frame is not None:
            native = to_encode(frame)
            # Frame indices, not time stamps: every encoder accepts and returns them.
            native.pts = frame.index
            native.time_base = 1 / self._plan.encoding.rate
            native.duration = 1
        try:
            packets = self._encoder.encode(native)
        except av.error.FFmpegError as error:
            raise SpliceFailed(f"the encoder refuses a frame ({error.strerror})") from error
        for packet in packets:
            assert packet.pts is not None
            data = self._repacked(bytes(packet))
            joined: Packet[Any] = Packet(data)
            joined.is_keyframe = packet.is_keyframe
            yield self._stamped(joined, int(self._plan.pts[packet.pts]))

    def _stamped(self, packet: Packet[Stream], pts: int | None) -> Packet[Any]:
        assert pts is not None and self._info.time_base is not None
        dts = int(self._plan.dts[self._written])
        if dts > pts:
            raise SpliceFailed(f"a frame would be shown at {pts} and decoded at {dts}")
        by = self._written
        if self._info.container in ("matroska", "webm"):
            by = int(np.searchsorted(self._plan.pts, pts))
        packet.pts = pts
        packet.dts = dts
        packet.duration = int(self._plan.durations[by])
        packet.time_base = self._info.time_base
        packet.stream = self._target
        self._written += 1
        return packet

    def _repacked(self, data: bytes) -> bytes:
        header = self._plan.header
        if header is None:
            return data
        units = [unit for unit in nal.split_start_codes(data) if not nal.is_parameter_set(header.codec, unit)]
        return header.packet(map(nal.renumber_hevc, units) if header.codec == "hevc" else units)


def to_encode(frame: Frame) -> av.VideoFrame:
    """Return the native picture, marked as a key frame where the source's is one."""
    native = frame.native
    native.pict_type = av.video.frame.PictureType.I if native.key_frame else av.video.frame.PictureType.NONE
    return native


def check_result(path: str, plan: SplicePlan, info: VideoInfo) -> None:
    """Decode all of `path`: every frame must come, undamaged and, counted from the first one, at its time.

    Raises:
        SpliceFailed: it does not.
    """
    shown: list[int] = []
    with open_source(path) as container:
        stream = video_stream(container, path)
        decoder = Decoder(stream, path)
        clock = stream.time_base or info.time_base
        try:
            for packet in demux(container, path, stream):
                shown += [frame.pts for frame in decoder.feed(packet)]
        except ClipError as error:
            raise SpliceFailed(error.reason) from error
    if len(shown) != len(plan.pts):
        raise SpliceFailed(f"{len(shown)} of {len(plan.pts)} frames can be decoded")
    wanted_s = (plan.pts - plan.pts[0]) * float(info.time_base)
    late_s = np.abs((np.array(shown) - shown[0]) * float(clock) - wanted_s)
    if late_s.max() > float(clock) + 1e-6:
        raise SpliceFailed(f"frame {late_s.argmax()} is shown {late_s.max():.3f} s from its time")
