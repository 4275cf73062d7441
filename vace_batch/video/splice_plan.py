"""Plan from the packets alone which groups of pictures are copied and which are encoded again."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import av
import av.error
import numpy as np
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from vace_batch.video import nal
from vace_batch.video.encoders import Encoding, open_encoder, own_encoder
from vace_batch.video.probe import VideoInfo, open_source, video_stream
from vace_batch.video.reader import demux

Edited = Callable[[int], bool] | Sequence[tuple[int, int]]
"""The edited frames: a function of the index, or ranges [start, stop)."""

_CONTAINERS = ("mp4", "mov", "matroska", "webm")
_NAL_CODECS = ("h264", "hevc")
# Codecs whose key frames refer to nothing, and whose packets hold all settings of the decoder.
_SELF_CONTAINED = ("vp8", "vp9")
_INTRA = ("prores", "mjpeg", "dnxhd", "png", "v210", "rawvideo")
# Codecs of which every frame is a key frame, but whose decoder reads settings from the track's header, which must not
# change.
_HEADER_BOUND = ("ffv1", "huffyuv", "utvideo")
_MAX_REORDER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring frames that are all copied or all encoded: `start` to `stop` in display order.

    The packets of a copied run begin at packet `key` of the source: before `start` where frames shown before its key
    frame belong to the edited run before it, and then `cut`: the key frame must be marked as a join. To decode the
    frames of an edited run, the decoder starts at packet `entry` with frame `first`.
    """

    start: int
    stop: int
    edited: bool
    key: int = 0
    cut: bool = False
    entry: int = 0
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicePlan:
    """The runs of a track and the times of its packets, for `SplicedTrack`.

    Times are by packet, in file order, in the stream's time base; `pts` by frame, rising.
    """

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
    """Plan how to copy the unedited groups of `info.path` into a file of `muxer`; or return the reason against it.

    Reads the packets once and decodes nothing; keeps 24 bytes a frame.

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
    if all(run.edited for run in runs) and not all(start.fresh for start in survey.starts):
        return "its groups of pictures refer to each other (open GOP)"
    pts = np.sort(survey.pts)
    dts = survey.dts if survey.dts is not None else _made_up_dts(survey.pts, pts)
    depth = _reorder_depth(pts, dts, runs)
    if depth is None:
        return "its decoding times are out of order"
    joined = _header_for_both(_joinable(encoding, depth), info, survey)
    if isinstance(joined, str):
        return joined
    return SplicePlan(
        runs=runs,
        pts=pts,
        dts=dts,
        durations=survey.durations,
        edited=is_edited,
        encoding=joined[0],
        header=survey.header,
        extradata=joined[1],
    )


def _header_for_both(encoding: Encoding, info: VideoInfo, survey: _Survey) -> tuple[Encoding, bytes | None] | str:
    """Return the encoding and track header with which copied and encoded packets decode; or the reason against it."""
    sets = _parameter_sets(encoding, info)
    if isinstance(sets, str):
        return sets
    if survey.header is not None:
        return encoding, survey.header.with_sets(sets)
    if info.codec in _HEADER_BOUND:
        matching = _with_same_header(encoding, info, survey.extradata)
        if matching is None:
            return f"its {info.codec} settings differ from the encoder's"
        return matching, survey.extradata
    return encoding, survey.extradata


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A group's first packet, its key frame. `fresh`: the group stands alone.

    Otherwise its `leading` frames, decoded after the key frame and shown before it, look back; without them it stands
    alone if it can be `cut`.
    """

    index: int
    leading: int = 0
    fresh: bool = True
    cut: bool = False

    @property
    def may_follow_edits(self) -> bool:
        """Whether the group, without its leading frames, can be copied after encoded frames."""
        return self.fresh or self.cut


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """Times of a track's packets in file order, and the `starts` of its groups.

    `dts` is None when the container does not store decoding times.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64] | None
    durations: NDArray[np.int64]
    starts: tuple[Start, ...]
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
    """Read a track's packets and find its groups; or return why the track cannot be joined."""
    packets = _read_packets(info)
    if isinstance(packets, str):
        return packets
    shown = np.array(packets.pts, np.int64)
    if not len(shown) or len(np.unique(shown)) != len(shown):
        return "its time stamps are not distinct"
    starts = _clean_starts(shown, packets.keys)
    if not starts or starts[0].index or starts[0].leading:
        return "it does not begin with a key frame that can stand alone"
    decoded = np.array(packets.dts, np.int64)
    if not packets.timeless and (np.diff(decoded) <= 0).any():
        return "its decoding times do not rise"
    return _Survey(
        pts=shown,
        dts=None if packets.timeless else decoded,
        durations=np.array(packets.durations, np.int64),
        starts=starts,
        header=packets.header,
        extradata=packets.extradata,
    )


def _read_packets(info: VideoInfo) -> _Packets | str:
    """Read a track's packets; or return why the track cannot be joined."""
    with open_source(info.path) as container:
        stream = video_stream(container, info.path)
        extradata = stream.codec_context.extradata
        packets = _Packets(
            timeless=info.container in ("matroska", "webm"),
            header=nal.parse_header(info.codec, extradata) if info.codec in _NAL_CODECS else None,
            extradata=extradata,
        )
        reason = _header_reason(info, packets.header)
        for packet in demux(container, info.path, stream):
            if reason:
                return reason
            if packet.size:
                if info.container == "avi":
                    packet.pts = packet.dts
                reason = packets.add(packet)
    return packets


@dataclass(slots=True, kw_only=True)
class _Packets:
    """Times of a track's packets in file order, its key frames and its header.

    `timeless`: decoding times are not stored.
    """

    timeless: bool
    header: nal.TrackHeader | None
    extradata: bytes | None
    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    keys: list[Start] = field(default_factory=list)

    def add(self, packet: Packet[Stream]) -> str:
        """Keep the times of the next packet; return why the track cannot be joined, or an empty text."""
        reason = _packet_reason(packet, self.header, self.timeless)
        if packet.is_keyframe and not reason:
            self.keys.append(_start(packet, self.header, len(self.pts)))
        self.pts.append(packet.pts or 0)
        self.dts.append(packet.dts or 0)
        self.durations.append(packet.duration or 0)
        return reason


def _header_reason(info: VideoInfo, header: nal.TrackHeader | None) -> str:
    if info.codec not in _NAL_CODECS:
        return ""
    if header is None or header.length_size != 4 or not header.sets:
        return "its parameter sets are not in the track's header"
    try:
        return "its parameter sets leave no free number" if nal.uses_our_ids(info.codec, header.sets) else ""
    except ValueError:
        return "its parameter sets are damaged"


def _packet_reason(packet: Packet[Stream], header: nal.TrackHeader | None, timeless: bool) -> str:
    if packet.is_discard:
        return "an edit list hides frames"
    if packet.is_corrupt:
        return "a packet is damaged"
    if packet.pts is None or (packet.dts is None and not timeless):
        return "some packets have no time stamps"
    return _units_reason(packet, header) if header is not None else ""


def _units_reason(packet: Packet[Stream], header: nal.TrackHeader) -> str:
    """Return why the NAL units of a packet cannot be joined to others, or an empty text."""
    try:
        units = list(header.units(bytes(packet)))
    except ValueError:
        return "a packet is damaged"
    if any(nal.is_parameter_set(header.codec, unit) and unit not in header.sets for unit in units if unit):
        return "its parameter sets change"
    return ""


def _start(packet: Packet[Stream], header: nal.TrackHeader | None, index: int) -> Start:
    if header is None:
        return Start(index=index)
    units = [unit for unit in header.units(bytes(packet)) if unit]
    fresh = any(nal.is_idr(header.codec, unit) for unit in units)
    return Start(index=index, fresh=fresh, cut=any(nal.is_random_access(header.codec, unit) for unit in units))


def _clean_starts(pts: NDArray[np.int64], keys: Sequence[Start]) -> tuple[Start, ...]:
    """Keep the key frames that divide the track, and count their leading frames.

    A key frame divides the track if every frame decoded before it is shown before every frame from it on.
    """
    shown_before = np.maximum.accumulate(pts)
    shown_after = np.minimum.accumulate(pts[::-1])[::-1]
    starts = []
    for key, stop in _groups(keys, len(pts)):
        if key.index and shown_before[key.index - 1] >= shown_after[key.index]:
            continue
        earlier = np.flatnonzero(pts[key.index : stop] < pts[key.index])
        leading = 0 if key.fresh else len(earlier)
        # Only leading frames that come right after their key frame can be taken off.
        together = bool((earlier == np.arange(1, len(earlier) + 1)).all())
        starts.append(replace(key, leading=leading, cut=key.cut and together))
    return tuple(starts)


def _groups(starts: Sequence[Start], count: int) -> Iterable[tuple[Start, int]]:
    """Pair each start of a group with its stop in a track of `count` packets; a track may have no key frame."""
    if not starts:
        return ()
    return zip(starts, [*(start.index for start in starts[1:]), count], strict=True)


def _runs(starts: Sequence[Start], count: int, edited: Callable[[int], bool]) -> tuple[Run, ...]:
    """Join groups of pictures into runs that are all copied or all encoded."""
    runs: list[Run] = []
    entry = first = 0
    for start, stop in _groups(starts, count):
        if start.fresh:
            entry = first = start.index
        touched = any(map(edited, range(start.index, stop)))
        behind_edits = bool(runs) and runs[-1].edited
        encoded = touched or (behind_edits and not start.may_follow_edits)
        if runs and behind_edits == encoded:
            runs[-1] = replace(runs[-1], stop=stop)
        elif encoded:
            runs.append(Run(start=start.index, stop=stop, edited=True, entry=entry, first=first))
        elif runs:
            begin = start.index + start.leading
            runs[-1] = replace(runs[-1], stop=begin)
            runs.append(Run(start=begin, stop=stop, edited=False, key=start.index, cut=not start.fresh))
            entry = start.index
            first = begin
        else:
            runs.append(Run(start=start.index, stop=stop, edited=False, key=start.index))
    return tuple(runs)


def _made_up_dts(pts: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make decoding times for containers that store none: display times, late by the depth of reordering."""
    rank = np.searchsorted(shown, pts)
    depth = max(_MAX_REORDER, int((np.arange(len(pts)) - rank).max(initial=0)))
    step = int(np.diff(shown).min()) if len(shown) > 1 else 1
    early = shown[0] - step * np.arange(depth, 0, -1)
    return np.concatenate([early, shown])[: len(pts)]


def _reorder_depth(pts: NDArray[np.int64], dts: NDArray[np.int64], runs: Sequence[Run]) -> int | None:
    """Return by how many frames the encoder may reorder so that each frame is decoded before it is shown."""
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
    try:
        return open_encoder(replace(encoding, options=encoding.options | {"flags": flags}), info).extradata
    except av.error.FFmpegError:
        return None


def _with_same_header(encoding: Encoding, info: VideoInfo, extradata: bytes | None) -> Encoding | None:
    """Find the encoder settings that give the source's header; None if no settings do."""
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
    """Return the encoder's parameter sets under numbers of their own; or the reason against it."""
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
