"""Take stock of a file: the packets, times, checksums and labels of each track, its chapters and its timecode.

One pass over the file. Of sound the first and last packets are decoded, and a few between whose numbers grow by
doubling: the cost grows with the logarithm of the length.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import Literal

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import AttachmentStream, Discard, Disposition, Stream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from vace_batch.video.probe import VideoInfo, open_source, video_stream
from vace_batch.video.reader import demux

TrackKind = Literal["picture", "sound", "subtitle", "data", "attachment", "cover"]

_KINDS: dict[str, TrackKind] = {
    "video": "picture",
    "audio": "sound",
    "subtitle": "subtitle",
    "attachment": "attachment",
}

_DISPOSITIONS = ("default", "dub", "original", "comment", "forced", "hearing_impaired", "visual_impaired")
_SIDE_DATA = {
    "SPHERICAL": "spherical projection",
    "STEREO3D": "stereo layout",
    "ICC_PROFILE": "ICC profile",
    "MASTERING_DISPLAY_METADATA": "HDR10 mastering",
    "CONTENT_LIGHT_LEVEL": "light levels",
}

_RUN = 3
"""Packets decoded one after the other at each place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One track of a file.

    `number` counts the tracks of its kind from 1, `index` all streams from 0. `starts_s` and `ends_s` (float64, seconds
    of the file's own clock) and `shown` (bool) have one value a packet; of pictures in display order, else in file
    order. A packet without a time has NaN; a packet without a duration ends where it starts; a packet that an edit list
    hides is not shown. `checksums` (uint32, CRC-32) and `payload` (bytes, CRC-32 of all) are those of the packets in
    file order, of an attachment of its content. `decoded` tells of each packet that was decoded, by number, whether the
    decoder took it. `remade`: the muxer makes the track itself, from a label.
    """

    kind: TrackKind
    number: int
    index: int
    codec: str
    language: str | None
    title: str | None
    dispositions: tuple[str, ...]
    tick_s: float
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    shown: NDArray[np.bool_]
    checksums: NDArray[np.uint32]
    payload: tuple[int, int]
    decoded: dict[int, bool]
    remade: bool

    @property
    def num_packets(self) -> int:
        return len(self.checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One chapter; `start_s` is a second of the file's clock."""

    start_s: Fraction
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The contents of a file beside its pixels.

    `pictures` is the video track that `rewrite` edits; `side_data` that of its first frame, by names for people.
    """

    pictures: Track
    others: tuple[Track, ...]
    chapters: tuple[Chapter, ...]
    timecode: str | None
    side_data: dict[str, bytes]


def take_inventory(path: str) -> Inventory:
    """Read all packets of the file at `path`.

    Raises:
        ClipError: as `probe`, and damaged_video.
    """
    with open_source(path) as container:
        main = video_stream(container, path)
        readings = _readings(container)
        side_data = _read_packets(container, path, readings, main.index)
        tracks = [reading.track() for reading in readings]
        return Inventory(
            pictures=next(track for track in tracks if track.index == main.index),
            others=tuple(track for track in tracks if track.index != main.index),
            chapters=_chapters(container),
            timecode=_timecode(container),
            side_data=side_data,
        )


def _read_packets(container: InputContainer, path: str, readings: list[_Reading], main: int) -> dict[str, bytes]:
    """Add each packet to its track's reading; return the side data of the first frame of stream `main`."""
    streams = [reading.stream for reading in readings if reading.kind != "attachment"]
    by_index = {reading.stream.index: reading for reading in readings}
    side_data: dict[str, bytes] | None = None
    for packet in demux(container, path, *streams):
        if side_data is None and packet.stream_index == main:
            side_data = _side_data(packet)
        if packet.size:
            by_index[packet.stream_index].add(packet)
    return side_data or {}


def colour_names(info: VideoInfo) -> dict[str, str | None]:
    """Name the colour tags of a video's first frame; None where it is untagged.

    Limited range is what players assume of an untagged picture; gray and RGB are of full range, tagged or not.
    """
    names: dict[str, str | None] = {
        "colour matrix": _name(Colorspace, info.matrix),
        "colour primaries": _name(ColorPrimaries, info.primaries),
        "transfer curve": _name(ColorTrc, info.trc),
    }
    if not info.pix_fmt.startswith(("gray", "gbr", "rgb", "bgr", "argb", "abgr")):
        names["colour range"] = "full" if info.color_range == ColorRange.JPEG else None
    return names


def _name(names: type[IntEnum], value: int) -> str | None:
    if value == 2:  # "unspecified" of all three
        return None
    return names(value).name.lower() if value in names.__members__.values() else f"number {value}"


@dataclass(slots=True, kw_only=True)
class _Reading:
    """The packets of one track, while they are read."""

    stream: Stream
    kind: TrackKind
    number: int
    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    shown: array[int] = field(default_factory=lambda: array("b"))
    checksums: array[int] = field(default_factory=lambda: array("I"))
    size: int = 0
    checksum: int = 0
    decoded: dict[int, bool] = field(default_factory=dict)
    last: deque[Packet[Stream]] = field(default_factory=lambda: deque(maxlen=_RUN))

    def add(self, packet: Packet[Stream]) -> None:
        """Add a packet; the empty cues that MP4 fills gaps with do not count."""
        data = bytes(packet)
        if self.kind == "subtitle" and data == b"\0\0":
            return
        self._time(packet)
        self.shown.append(not packet.is_discard)
        self.checksums.append(zlib.crc32(data))
        self.checksum = zlib.crc32(data, self.checksum)
        self.size += len(data)
        if self.kind == "sound":
            number = len(self.checksums) - 1
            self.last.append(packet)
            if _is_sampled(number):
                self._decode(packet, number)

    def track(self) -> Track:
        """Describe the track, after its last packet; decodes the last packets of sound."""
        self._decode_last()
        labels = {key.lower(): value for key, value in self.stream.metadata.items()}
        starts, ends, shown = np.array(self.starts), np.array(self.ends), np.array(self.shown, np.bool_)
        if self.kind == "picture":
            order = np.argsort(starts, kind="stable")
            starts, ends, shown = starts[order], ends[order], shown[order]
        language = labels.get("language", "und")
        return Track(
            kind=self.kind,
            number=self.number,
            index=self.stream.index,
            codec=_codec(self.stream),
            language=None if language == "und" else language,
            title=labels.get("filename" if self.kind == "attachment" else "title"),
            dispositions=tuple(name for name in _DISPOSITIONS if self.stream.disposition & Disposition[name]),
            tick_s=float(self.stream.time_base or 0),
            starts_s=starts,
            ends_s=ends,
            shown=shown,
            checksums=np.array(self.checksums, np.uint32),
            payload=self._payload(),
            decoded=self.decoded,
            remade=self.kind == "data" and "timecode" in self.stream.metadata,
        )

    def _decode_last(self) -> None:
        """Decode the last packets of sound that were not among the samples."""
        first = len(self.checksums) - len(self.last)
        for number, packet in enumerate(self.last, start=first):
            if number not in self.decoded:
                self._decode(packet, number)

    def _payload(self) -> tuple[int, int]:
        """Return the size in bytes and the CRC-32 of all packets, or of an attachment's content."""
        if isinstance(self.stream, AttachmentStream):
            content = bytes(self.stream.data or b"")
            return len(content), zlib.crc32(content)
        return self.size, self.checksum

    def _time(self, packet: Packet[Stream]) -> None:
        base = packet.time_base or self.stream.time_base
        # AVI stores no display times, and libav's guesses for B-frames are out of order.
        ticks = packet.dts if packet.pts is None or self.stream.container.format.name == "avi" else packet.pts
        start_s = float(ticks * base) if ticks is not None and base else float("nan")
        self.starts.append(start_s)
        self.ends.append(start_s + float((packet.duration or 0) * base) if base else start_s)

    def _decode(self, packet: Packet[Stream], number: int) -> None:
        context = self.stream.codec_context
        if context is None:
            return
        if number and number - 1 not in self.decoded and context.is_open:
            context.flush_buffers()
        try:
            packet.decode()
            self.decoded[number] = True
        except (av.error.FFmpegError, ValueError):
            self.decoded[number] = False


def _readings(container: InputContainer) -> list[_Reading]:
    counts: dict[TrackKind, int] = {}
    readings = []
    for stream in container.streams:
        if stream.discard == Discard.all:  # the titles of chapters, as a track of QuickTime
            continue
        kind = _KINDS.get(str(stream.type), "data")
        if kind == "picture" and stream.disposition & Disposition.attached_pic:
            kind = "cover"
        counts[kind] = counts.get(kind, 0) + 1
        readings.append(_Reading(stream=stream, kind=kind, number=counts[kind]))
    return readings


def _is_sampled(number: int) -> bool:
    """Return whether packet `number` is decoded: the first three, and three from each power of two on."""
    return number < _RUN or number - (1 << (number.bit_length() - 1)) < _RUN


def _codec(stream: Stream) -> str:
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else "unknown"


def _side_data(packet: Packet[Stream]) -> dict[str, bytes] | None:
    """Decode a packet of the pictures, and return the side data of the first frame; None until a frame comes."""
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        return None
    for frame in frames:
        if isinstance(frame, av.VideoFrame):
            found = {name: frame.side_data.get(kind) for kind, name in _SIDE_DATA.items()}
            return {name: bytes(data) for name, data in found.items() if isinstance(data, SideData)}
    return None


def _chapters(container: InputContainer) -> tuple[Chapter, ...]:
    chapters = []
    for chapter in container.chapters():
        start_s = chapter["start"] * (chapter["time_base"] or Fraction(1))
        chapters.append(Chapter(start_s=start_s, title=chapter["metadata"].get("title", "")))
    return tuple(chapters)


def _timecode(container: InputContainer) -> str | None:
    for labels in (*(stream.metadata for stream in container.streams), container.metadata):
        for key, value in labels.items():
            if key.lower() == "timecode":
                return value
    return None
