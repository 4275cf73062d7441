"""Copy the other tracks of a file packet by packet, and its labels."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from vace_batch.errors import ClipError
from vace_batch.video.libav import refused_as
from vace_batch.video.probe import open_source
from vace_batch.video.reader import demux

# Brands and the writer's name describe the source's file, statistics its pictures; neither is true of the output.
_STALE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_", "_stat")


def mux(sink: OutputContainer, packet: Packet[Stream]) -> None:
    """Write one packet.

    Raises:
        ClipError: cannot_write when the container does not take it.
        OSError: the disk is full or fails.
    """
    with refused_as("cannot_write", f"the {sink.format.name} muxer refuses stream {packet.stream_index}"):
        sink.mux_one(packet)


def copy_packet(packet: Packet[Stream], target: Stream, sink: OutputContainer, lead_s: Fraction) -> None:
    """Write a packet of the source into `target`, `lead_s` seconds later.

    Raises:
        ClipError: as `mux`.
    """
    if packet.dts is None:
        packet.dts = packet.pts
    if lead_s and packet.time_base and packet.pts is not None and packet.dts is not None:
        ticks = round(lead_s / packet.time_base)
        packet.pts += ticks
        packet.dts += ticks
    packet.stream = target
    mux(sink, packet)


def add_copies(
    source: InputContainer, sink: OutputContainer, track: VideoStream, muxer: str, notes: list[str]
) -> dict[int, Stream]:
    """Add an output stream for each track but `track`, by source index; add a note for each that cannot be kept.

    Raises:
        ClipError: as `check_sound`, and damaged_video.
    """
    check_sound(source, muxer)
    copies: dict[int, Stream] = {}
    for stream in source.streams:
        if stream is track or _is_remade(stream):
            continue
        if stream.disposition & Disposition.attached_pic and muxer == "matroska":
            _attach_cover(sink, source, stream)
        elif _takes(muxer, stream):
            copies[stream.index] = _add_copy(sink, stream)
        else:
            notes.append(f"{stream.type} track {stream.index} left out: {muxer} does not take it")
    return copies


def _attach_cover(sink: OutputContainer, source: InputContainer, stream: Stream) -> None:
    """Attach a cover picture to a Matroska file: as a video track it would become a film of one frame."""
    path = source.name.removeprefix("file:")
    with open_source(path) as again:
        picture = next((packet for packet in demux(again, path, again.streams[stream.index]) if packet.size), None)
    if picture is None:
        raise ClipError("damaged_video", f"{path}: its cover picture (track {stream.index}) is empty")
    kind = {"mjpeg": "jpeg"}.get(stream.codec_context.name, stream.codec_context.name)
    labels = {key.lower(): value for key, value in stream.metadata.items()}
    name = labels.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    sink.add_attachment(name, labels.get("mimetype", f"image/{kind}"), bytes(picture))


def check_sound(source: InputContainer, muxer: str) -> None:
    """Refuse a container that cannot take an audio track of `source`: a video without its sound is lost work.

    Raises:
        ClipError: cannot_write.
    """
    for stream in source.streams.audio:
        if not _takes(muxer, stream):
            codec = stream.codec_context.name if stream.codec_context is not None else "of an unknown codec"
            reason = f"audio track {stream.index} ({codec}) cannot be copied into {muxer}"
            raise ClipError("cannot_write", f"{reason}; an output_uri that ends in .mkv takes it")


def _is_remade(stream: Stream) -> bool:
    """Return whether the muxer makes this track itself: chapter titles, and timecode from the video track's tag."""
    return stream.discard == Discard.all or (stream.type == "data" and "timecode" in stream.metadata)


def _takes(muxer: str, stream: Stream) -> bool:
    """Return whether the muxer writes the header of a file with this stream alone."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer, metadata_errors="surrogateescape") as trial:
            _add_copy(trial, stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _add_copy(sink: OutputContainer, stream: Stream) -> Stream:
    copy = sink.add_stream_from_template(stream, opaque=True)
    copy_stream_labels(stream, copy)
    return copy


def copy_stream_labels(source: Stream, target: Stream) -> None:
    """Copy a track's language, title, timecode and other labels, and its disposition."""
    target.metadata.update(_kept(source.metadata))
    target.disposition = source.disposition


def copy_labels(source: InputContainer, sink: OutputContainer, lead_s: Fraction) -> None:
    """Copy the labels of the whole file, and its chapters `lead_s` seconds later."""
    sink.metadata.update(_kept(source.metadata))
    chapters = source.chapters()
    for chapter in chapters:
        if lead_s and chapter["time_base"]:
            ticks = round(lead_s / chapter["time_base"])
            chapter["start"] += ticks
            chapter["end"] += ticks
    sink.set_chapters(chapters)


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(_STALE_TAGS)}
