"""Smart rendering: groups of pictures without edits are copied packet by packet, the others are encoded again.

A group can stand alone when nothing in it, in decoding order, refers to what came before and nothing in it is shown
before that. H.264 and HEVC groups begin at IDR pictures; in codecs whose key frames reset everything, at key frames.
The number of packets in a group stays what it was, so the decoding times of the source serve both kinds. Parameter
sets of both encodings stand in the track's header under different numbers: a player may seek anywhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.video import nal
from vace_batch.video.encoders import Encoding, configure, own_encoder
from vace_batch.video.frame import Frame
from vace_batch.video.probe import VideoInfo, open_source, video_stream
from vace_batch.video.read import Decoder, demux

Edited = Callable[[int], bool] | Sequence[tuple[int, int]]
"""Which frames will be edited: by index, or as ranges [start, stop)."""

_CONTAINERS = ("mp4", "mov", "matroska", "webm")
_NAL_CODECS = ("h264", "hevc")
# Every key frame of these starts anew, and what the decoder must know is in the packet.
_SELF_CONTAINED = ("vp8", "vp9")
_INTRA = ("prores", "mjpeg", "dnxhd", "png", "v210", "rawvideo")
# The same, but the decoder reads its settings from the track's header: that must not change.
_HEADER_BOUND = ("ffv1", "huffyuv", "utvideo")
_MAX_REORDER = 2


class SpliceFailed(Exception):
    """The joined track is not what it should be; a full encode can still be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring groups with the same fate: packets `start` to `stop` in file order, and the same frames."""

    start: int
    stop: int
    edited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicePlan:
    """What `SplicedTrack` does. Times by packet, in file order, in the stream's time base; `pts` by frame, rising."""

    runs: tuple[Run, ...]
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    durations: NDArray[np.int64]
    edited: Callable[[int], bool]
    encoding: Encoding
    header: nal.TrackHeader | None
    extradata: bytes | None

    @property
    def copied_frames(self) -> int:
        return sum(run.stop - run.start for run in self.runs if not run.edited)


def as_predicate(edited: Edited) -> Callable[[int], bool]:
    if callable(edited):
        return edited
    ranges = [(start, stop) for start, stop in edited if start < stop]
    return lambda index: any(start <= index < stop for start, stop in ranges)


def plan_splice(info: VideoInfo, muxer: str, encoding: Encoding, edited: Edited) -> SplicePlan | str:
    """How to keep the groups without edits of `info.path` in a file of `muxer`; or why not, in words.

    Reads the packets once and decodes nothing; 24 bytes a frame are kept.

    Raises:
        ClipError: damaged_video.
    """
    reason = _why_not(info, muxer, encoding)
    if reason:
        return reason
    survey = _survey(info)
    if isinstance(survey, str):
        return survey
    is_edited = as_predicate(edited)
    runs = _runs(survey.starts, len(survey.pts), is_edited)
    if survey.open_gops and all(run.edited for run in runs):
        return "its groups of pictures refer to each other (open GOP)"
    pts = np.sort(survey.pts)
    dts = survey.dts if survey.dts is not None else _made_up_dts(survey.pts, pts)
    depth = _reorder_depth(pts, dts, runs)
    if depth is None:
        return "its decoding times are out of order"
    encoding = _joinable(encoding, depth)
    sets = _parameter_sets(encoding, info)
    if isinstance(sets, str):
        return sets
    extradata, header = survey.extradata, survey.header
    if header is not None:
        extradata = header.with_sets(sets)
    elif info.codec in _HEADER_BOUND:
        matching = _with_same_header(encoding, info, extradata)
        if matching is None:
            return f"its {info.codec} settings are not those of the encoder"
        encoding = matching
    return SplicePlan(
        runs=runs,
        pts=pts,
        dts=dts,
        durations=survey.durations,
        edited=is_edited,
        encoding=encoding,
        header=header,
        extradata=extradata,
    )


class SplicedTrack:
    """Writes the video track of a `SplicePlan`: packets of the source in, packets of the result out."""

    def __init__(
        self,
        sink: OutputContainer,
        target: VideoStream,
        source: VideoStream,
        info: VideoInfo,
        plan: SplicePlan,
        edit: Callable[[Frame], None],
    ) -> None:
        self._sink, self._target, self._info, self._plan, self._edit = sink, target, info, plan, edit
        self._decoder = Decoder(source, info.path)
        self._runs = iter(plan.runs)
        self._run = Run(start=0, stop=0, edited=False)
        self._read = self._written = 0
        self._encoder: VideoCodecContext | None = None

    def feed(self, packet: Packet[Stream]) -> Iterator[Packet[Any]]:
        """The packets of the result that follow from the next one of the source.

        Raises:
            ClipError: as `Decoder.feed`, and source_changed.
            SpliceFailed: an encoder did not do what was asked of it.
        """
        if not packet.size:
            return
        if self._read == self._run.stop:
            self._begin()
        self._read += 1
        if not self._run.edited:
            yield self._stamped(packet, packet.dts if self._info.container == "avi" else packet.pts)
            return
        yield from self._edited(self._decoder.feed(packet))
        if self._read == self._run.stop:
            yield from self._edited(self._decoder.feed(None))
            yield from self._encoded(None)
            if self._written != self._read:
                raise SpliceFailed(f"{self._read - self._written} frames before {self._read} did not come out again")

    def finish(self) -> None:
        """Raises:
        ClipError: source_changed.
        """
        if self._written != len(self._plan.pts):
            lost = len(self._plan.pts) - self._written
            raise ClipError(
                "source_changed", f"{self._info.path}: {lost} frames less than a moment ago", retryable=True
            )

    @property
    def num_frames(self) -> int:
        return self._written

    def _begin(self) -> None:
        run = next(self._runs, None)
        if run is None:
            raise ClipError("source_changed", f"{self._info.path}: more frames than a moment ago", retryable=True)
        self._run = run
        if run.edited:
            self._decoder.jump(run.start)
            self._encoder = open_encoder(self._plan.encoding, self._info)

    def _edited(self, frames: Iterable[Frame]) -> Iterator[Packet[Any]]:
        for frame in frames:
            if self._plan.edited(frame.index):
                self._edit(frame)
            yield from self._encoded(frame)

    def _encoded(self, frame: Frame | None) -> Iterator[Packet[Any]]:
        assert self._encoder is not None
        native = None
        if frame is not None:
            native = to_encode(frame)
            # Numbers, not time stamps: every encoder takes them, and gives them back.
            native.pts, native.time_base, native.duration = frame.index, 1 / self._plan.encoding.rate, 1
        for packet in self._encoder.encode(native):
            assert packet.pts is not None
            data = self._repacked(bytes(packet))
            joined: Packet[Any] = Packet(data)
            joined.is_keyframe = packet.is_keyframe
            yield self._stamped(joined, int(self._plan.pts[packet.pts]))

    def _stamped(self, packet: Packet[Any], pts: int | None) -> Packet[Any]:
        assert pts is not None and self._info.time_base is not None
        dts = int(self._plan.dts[self._written])
        if dts > pts:
            raise SpliceFailed(f"a frame would be shown at {pts} and decoded at {dts}")
        by = self._written
        if self._info.container in ("matroska", "webm"):
            by = int(np.searchsorted(self._plan.pts, pts))
        packet.pts, packet.dts, packet.duration = pts, dts, int(self._plan.durations[by])
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
    """The native picture, key where the source's is."""
    native = frame.native
    native.pict_type = av.video.frame.PictureType.I if native.key_frame else av.video.frame.PictureType.NONE
    return native


def open_encoder(encoding: Encoding, info: VideoInfo) -> VideoCodecContext:
    """An open encoder that counts frames and puts headers into the stream."""
    context = av.CodecContext.create(encoding.codec, "w")
    assert isinstance(context, VideoCodecContext)
    configure(context, replace(encoding, time_base=1 / encoding.rate), info)
    context.open()
    return context


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


# --- planning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """By packet, in file order; `dts` None when the container does not store them. `starts`: where groups begin."""

    pts: NDArray[np.int64]
    dts: NDArray[np.int64] | None
    durations: NDArray[np.int64]
    starts: tuple[int, ...]
    open_gops: bool
    header: nal.TrackHeader | None
    extradata: bytes | None


def _why_not(info: VideoInfo, muxer: str, encoding: Encoding) -> str:
    if info.codec not in _NAL_CODECS + _SELF_CONTAINED + _INTRA + _HEADER_BOUND:
        return f"groups of {info.codec} cannot be joined"
    if muxer == info.container == "avi" and info.codec in _INTRA + _HEADER_BOUND:
        pass
    elif muxer not in _CONTAINERS or info.container not in _CONTAINERS:
        return f"{info.container if muxer in _CONTAINERS else muxer} files cannot be joined"
    if encoding.codec != own_encoder(info.codec) or encoding.pix_fmt != info.pix_fmt:
        return f"{info.codec} in {info.pix_fmt} is written as {encoding.codec} in {encoding.pix_fmt}"
    return ""


def _survey(info: VideoInfo) -> _Survey | str:
    pts, dts, durations, starts, keys = array("q"), array("q"), array("q"), [], 0
    timeless = info.container in ("matroska", "webm")
    with open_source(info.path) as container:
        stream = video_stream(container, info.path)
        extradata = stream.codec_context.extradata
        header = nal.parse_header(info.codec, extradata) if info.codec in _NAL_CODECS else None
        reason = _header_reason(info, header)
        for packet in demux(container, info.path, stream):
            if reason:
                return reason
            if not packet.size:
                continue
            if info.container == "avi":
                packet.pts = packet.dts
            reason = _packet_reason(packet, header, timeless)
            keys += packet.is_keyframe
            if _begins_group(packet, header):
                starts.append(len(pts))
            pts.append(packet.pts or 0)
            dts.append(packet.dts or 0)
            durations.append(packet.duration or 0)
    shown = np.array(pts, np.int64)
    if not len(shown) or len(np.unique(shown)) != len(shown):
        return "its time stamps are not distinct"
    if not starts or starts[0]:
        return "it does not begin with a key frame that can stand alone"
    decoded = np.array(dts, np.int64)
    if not timeless and (np.diff(decoded) <= 0).any():
        return "its decoding times do not rise"
    return _Survey(
        pts=shown,
        dts=None if timeless else decoded,
        durations=np.array(durations, np.int64),
        starts=(clean := _clean_starts(shown, starts)),
        open_gops=len(clean) < keys,
        header=header,
        extradata=extradata,
    )


def _header_reason(info: VideoInfo, header: nal.TrackHeader | None) -> str:
    if info.codec not in _NAL_CODECS:
        return ""
    if header is None or header.length_size != 4 or not header.sets:
        return "its parameter sets are not in the track's header"
    return "its parameter sets use up all numbers" if nal.uses_our_ids(info.codec, header.sets) else ""


def _packet_reason(packet: Packet[Stream], header: nal.TrackHeader | None, timeless: bool) -> str:
    if packet.is_discard or packet.is_corrupt:
        return "an edit list hides frames" if packet.is_discard else "a packet is damaged"
    if packet.pts is None or (packet.dts is None and not timeless):
        return "packets without time stamps"
    if header is None:
        return ""
    try:
        units = list(header.units(bytes(packet)))
    except ValueError:
        return "a packet is damaged"
    if any(nal.is_parameter_set(header.codec, unit) and unit not in header.sets for unit in units if unit):
        return "its parameter sets change"
    return ""


def _begins_group(packet: Packet[Stream], header: nal.TrackHeader | None) -> bool:
    if not packet.is_keyframe or header is None:
        return packet.is_keyframe
    try:
        return any(nal.is_idr(header.codec, unit) for unit in header.units(bytes(packet)) if unit)
    except ValueError:
        return False


def _clean_starts(pts: NDArray[np.int64], starts: Sequence[int]) -> tuple[int, ...]:
    """Those of `starts` before which everything is shown that was decoded before."""
    shown_before = np.maximum.accumulate(pts)
    shown_after = np.minimum.accumulate(pts[::-1])[::-1]
    return tuple(start for start in starts if start == 0 or shown_before[start - 1] < shown_after[start])


def _runs(starts: Sequence[int], count: int, edited: Callable[[int], bool]) -> tuple[Run, ...]:
    stops = [*starts[1:], count]
    groups = [
        Run(start=start, stop=stop, edited=any(map(edited, range(start, stop))))
        for start, stop in zip(starts, stops, strict=True)
    ]
    runs = []
    for fate, members in groupby(groups, key=lambda run: run.edited):
        together = list(members)
        runs.append(Run(start=together[0].start, stop=together[-1].stop, edited=fate))
    return tuple(runs)


def _made_up_dts(pts: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.int64]:
    """Decoding times for containers that store none: the time shown, late by as many frames as are reordered."""
    rank = np.searchsorted(shown, pts)
    depth = max(_MAX_REORDER, int((np.arange(len(pts)) - rank).max(initial=0)))
    step = int(np.diff(shown).min()) if len(shown) > 1 else 1
    early = shown[0] - step * np.arange(depth, 0, -1)
    return np.concatenate([early, shown])[: len(pts)]


def _reorder_depth(pts: NDArray[np.int64], dts: NDArray[np.int64], runs: Sequence[Run]) -> int | None:
    """By how many frames the encoder may reorder so that nothing is shown before its decoding time."""
    for depth in range(_MAX_REORDER, -1, -1):
        if all(
            (dts[run.start : run.stop] <= pts[np.maximum(np.arange(run.start, run.stop) - depth, run.start)]).all()
            for run in runs
            if run.edited
        ):
            return depth
    return None


def _joinable(encoding: Encoding, depth: int) -> Encoding:
    options = dict(encoding.options)
    if depth == 0:
        options["bf"] = "0"
    params = {"libx264": "x264-params", "libx265": "x265-params"}.get(encoding.codec)
    if params:
        extra = [] if depth >= _MAX_REORDER else ["b-pyramid=" + ("none" if encoding.codec == "libx264" else "0")]
        extra += [f"sps-id={nal.H264_SET_ID}"] if encoding.codec == "libx264" else []
        options[params] = ":".join([options[params], *extra])
    return replace(encoding, options=options)


def _extradata(encoding: Encoding, info: VideoInfo) -> bytes | None:
    flags = encoding.options.get("flags", "") + "+global_header"
    return open_encoder(replace(encoding, options=encoding.options | {"flags": flags}), info).extradata


def _with_same_header(encoding: Encoding, info: VideoInfo, extradata: bytes | None) -> Encoding | None:
    """`encoding` with the settings that the source's header tells of; None when no settings lead to it."""
    changes: Iterable[dict[str, str]] = [{}]
    if encoding.codec == "ffv1":
        names = ("coder", "context", "slicecrc", "g", "slices")
        values = product("10", "10", "10", ("1", "12"), ("4", "6", "9", "12", "15", "16", "24", "30"))
        changes = (dict(zip(names, each, strict=True)) for each in values)
    for change in changes:
        candidate = replace(encoding, options=encoding.options | change)
        if _extradata(candidate, info) == extradata:
            return candidate
    return None


def _parameter_sets(encoding: Encoding, info: VideoInfo) -> tuple[bytes, ...] | str:
    """The encoder's parameter sets under our numbers."""
    if info.codec not in _NAL_CODECS:
        return ()
    units = nal.split_start_codes(_extradata(encoding, info) or b"")
    sets = [unit for unit in units if nal.is_parameter_set(info.codec, unit)]
    try:
        sets = [nal.renumber_hevc(unit) if info.codec == "hevc" else unit for unit in sets]
    except ValueError as error:
        return f"the encoder's parameter sets cannot be renumbered ({error})"
    if not nal.uses_our_ids(info.codec, sets):
        return "the encoder's parameter sets cannot be renumbered"
    return tuple(sets)
