"""Compare the tracks that a rewrite copies with the source: times, packets, payload, decoding and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vace_batch.video.inventory import Inventory, Track, TrackKind

TOLERANCE_S = 0.005
"""Largest shift of a track against the pictures; or a tick of the coarser clock, where that is longer."""

_PACKET_S = 0.03
"""An edit list may hide the first packet of AAC, 0.02 s, in one of two files that are shifted against each other."""

_KEEPS_LANGUAGE = frozenset({"mp4", "mov", "matroska", "webm"})
"""Containers that keep the language of every track; between others it is compared only in one and the same kind."""

_WORDS: dict[TrackKind, str] = {
    "picture": "picture track",
    "sound": "sound track",
    "subtitle": "subtitle track",
    "data": "data track",
    "attachment": "attachment",
    "cover": "cover picture",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A file of the comparison; its first picture is shown at `first_s`, the source's first picture `lead_s` later."""

    inventory: Inventory
    container: str
    first_s: float
    lead_s: float = 0.0

    @property
    def zero_s(self) -> float:
        """The time of the source's first picture, in seconds of the file's clock."""
        return self.first_s + self.lead_s


def track_faults(source: Side, output: Side, left_out: frozenset[int]) -> Iterator[str]:
    """Yield a sentence for each unintended difference between the copied tracks.

    `left_out` are the indices of the source's tracks that the writer left out and said so.
    """
    for kind in _WORDS:
        wanted = [each for each in _copied(source, kind) if each.index not in left_out]
        for track, copy in _pair(wanted, _copied(output, kind)):
            name = _name(track)
            if copy is None:
                yield f"{name} is missing"
            else:
                pair = _Pair(track=track, copy=copy, source=source, output=output)
                yield from (f"{name} {fault}" for fault in pair.faults())


def left_out_tracks(notes: Sequence[str]) -> frozenset[int]:
    """Return the indices of the source's tracks that the writer's notes name as left out."""
    found = (re.match(r"\w+ track (\d+) left out", note) for note in notes)
    return frozenset(int(match[1]) for match in found if match)


def _copied(side: Side, kind: TrackKind) -> list[Track]:
    return [track for track in side.inventory.others if track.kind == kind and not track.remade]


def _pair(tracks: Sequence[Track], copies: Sequence[Track]) -> Iterator[tuple[Track, Track | None]]:
    """Pair each track with its copy: the copy of the same content, else the next one of the same codec."""
    free = list(copies)
    pairs: dict[int, Track] = {}
    for track in tracks:
        copy = next((each for each in free if each.payload == track.payload), None)
        if copy is not None:
            free.remove(copy)
            pairs[track.index] = copy
    for track in tracks:
        if track.index not in pairs:
            copy = next((each for each in free if each.codec == track.codec), None)
            if copy is not None:
                free.remove(copy)
                pairs[track.index] = copy
        yield track, pairs.get(track.index)


def _name(track: Track) -> str:
    if track.kind in ("attachment", "cover"):
        return f"{_WORDS[track.kind]} {track.number} ({track.title or track.codec})"
    return f"{_WORDS[track.kind]} {track.number} ({', '.join(filter(None, (track.codec, track.language)))})"


@dataclass(slots=True, kw_only=True)
class _Pair:
    """A track and its copy; times of both count from the source's first picture."""

    track: Track
    copy: Track
    source: Side
    output: Side
    before: tuple[NDArray[np.float64], NDArray[np.float64]] = field(init=False)
    after: tuple[NDArray[np.float64], NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        # Packets that an edit list hides are shown in a container without edit lists, and after added frames.
        hidden = not self._same_container or bool(self.output.lead_s)
        self.before = _times(self.track, self.source.zero_s, hidden=hidden)
        self.after = _times(self.copy, self.output.zero_s, hidden=hidden)

    def faults(self) -> Iterator[str]:
        if self.track.kind in ("attachment", "cover"):
            if self.copy.payload != self.track.payload:
                yield "has another content than the source's"
            return
        if self.track.num_packets and not self.copy.num_packets:
            yield "is empty"
            return
        times = list(self._ends()) or list(self._gaps())
        yield from times
        yield from self._packets(count_told=bool(times))
        yield from self._decoding()
        yield from self._labels()

    @property
    def _tolerance_s(self) -> float:
        return max(TOLERANCE_S, self.track.tick_s, self.copy.tick_s) + 1e-6

    @property
    def _same_container(self) -> bool:
        return self.source.container == self.output.container

    @property
    def _is_pcm(self) -> bool:
        """Whether a demuxer cuts the track into packets as it likes."""
        return self.track.codec.startswith("pcm_")

    def _ends(self) -> Iterator[str]:
        """Compare the times of the first and of the last packet."""
        starts, copy_starts = self.before[0], self.after[0]
        if not len(starts) or not len(copy_starts):
            return
        first_s, copy_first_s = starts.min(), copy_starts.min()
        last_s, copy_last_s = self._last_times()
        late_s, longer_s = copy_first_s - first_s, copy_last_s - last_s
        if min(abs(late_s), abs(longer_s)) > self._tolerance_s and abs(late_s - longer_s) < _PACKET_S:
            yield f"is {_late(longer_s)} from its first to its last packet"
            return
        if abs(late_s) > self._tolerance_s:
            yield f"begins {_late(late_s)}: {_both(copy_first_s, first_s, late_s)}"
        if abs(longer_s) > self._tolerance_s:
            yield f"ends {_late(longer_s)}: {_both(copy_last_s, last_s, longer_s)}"

    def _last_times(self) -> tuple[float, float]:
        """Return the end of the last packet of the track and of the copy, or its start where lengths do not compare."""
        starts, ends = self.before
        copy_starts, copy_ends = self.after
        # Containers differ in the length that they give to the last packet, and some store none.
        exact = self._same_container or self._is_pcm
        if not exact or _no_length(starts, ends) or _no_length(copy_starts, copy_ends):
            return starts.max(), copy_starts.max()
        return ends.max(), copy_ends.max()

    def _gaps(self) -> Iterator[str]:
        """Compare the times between the first and the last packet."""
        starts, copy_starts = self.before[0], self.after[0]
        if len(starts) == len(copy_starts) and not self._is_pcm:
            moved = np.abs(copy_starts - starts) > self._tolerance_s
            if moved.any():
                index = int(np.argmax(moved))
                late_s = copy_starts[index] - starts[index]
                yield (
                    f"is out of time from {_at(starts[index])} on: {int(moved.sum()):,} of {len(starts):,} packets, "
                    f"the first is {_late(late_s)}"
                )
        elif self.track.kind == "sound" and len(starts) > 1 and len(copy_starts) > 1:
            # Not from the ends of packets: MP4 lengthens the packet before a gap.
            usual_s = float(np.diff(starts).max())
            steps_s = np.diff(copy_starts)
            for index in np.flatnonzero(steps_s > usual_s + self._tolerance_s)[:1]:
                missing_s = float(steps_s[index]) - usual_s
                yield f"has a gap of {missing_s:.3f} s at {_at(copy_starts[index] + usual_s)} that the source has not"

    def _packets(self, *, count_told: bool) -> Iterator[str]:
        """Compare the number of packets, and in the same kind of container their content."""
        track, copy = self.track, self.copy
        if copy.payload == track.payload:
            return
        if self._is_pcm:
            yield from self._pcm_payload(count_told=count_told)
            return
        unit = "cues" if track.kind == "subtitle" else "packets"
        if copy.num_packets != track.num_packets:
            if not count_told:
                yield f"has {copy.num_packets:,} {unit}, the source has {track.num_packets:,}{self._first_other()}"
        elif self._same_container:
            other = copy.checksums != track.checksums
            yield f"is not the source's bit for bit: {int(other.sum()):,} of {len(other):,} {unit}{self._first_other()}"

    def _pcm_payload(self, *, count_told: bool) -> Iterator[str]:
        """Compare the bytes of PCM sound, whose packets do not count, in the same kind of container."""
        size, copy_size = self.track.payload[0], self.copy.payload[0]
        if not self._same_container:
            return
        if copy_size == size:
            yield "is not the source's bit for bit"
        elif not count_told:
            yield f"has {copy_size:,} bytes of sound, the source has {size:,}"

    def _first_other(self) -> str:
        """Name the place of the first packet that is not the source's."""
        if not self._same_container:
            return ""
        length = min(self.track.num_packets, self.copy.num_packets)
        other = self.copy.checksums[:length] != self.track.checksums[:length]
        index = int(np.argmax(other)) if other.any() else length
        starts = self.track.starts_s[np.isfinite(self.track.starts_s)] - self.source.zero_s
        return f", the first difference at {_at(starts[index])}" if index < len(starts) else ""

    def _decoding(self) -> Iterator[str]:
        """Compare which of the sampled packets the decoder takes."""
        worse = [number for number, taken in self.copy.decoded.items() if not taken and self.track.decoded.get(number)]
        if worse:
            starts = self.copy.starts_s - self.output.zero_s
            yield f"cannot be decoded at {_at(starts[worse[0]])}"

    def _labels(self) -> Iterator[str]:
        """Compare language, title and disposition."""
        track, copy = self.track, self.copy
        both = {self.source.container, self.output.container} <= _KEEPS_LANGUAGE
        if (self._same_container or both) and copy.language != track.language:
            yield f"has the language {copy.language or 'und'}, the source has {track.language or 'und'}"
        if self._same_container:
            yield from self._title_and_flags()

    def _title_and_flags(self) -> Iterator[str]:
        """Compare title and disposition."""
        track, copy = self.track, self.copy
        if copy.title != track.title:
            yield f"has the title {copy.title or 'none'}, the source has {track.title or 'none'}"
        if copy.dispositions != track.dispositions:
            flags = ", ".join(copy.dispositions) or "none"
            yield f"has the flags {flags}, the source has {', '.join(track.dispositions) or 'none'}"


def _times(track: Track, zero_s: float, *, hidden: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = np.isfinite(track.starts_s) & (track.shown | hidden)
    return track.starts_s[known] - zero_s, track.ends_s[known] - zero_s


def _no_length(starts: NDArray[np.float64], ends: NDArray[np.float64]) -> bool:
    last = int(np.argmax(starts))
    return bool(ends[last] <= starts[last])


def _late(seconds: float) -> str:
    return f"{abs(seconds):.{_decimals(seconds)}f} s {'late' if seconds > 0 else 'early'}"


def _both(copy_s: float, track_s: float, difference_s: float) -> str:
    decimals = _decimals(difference_s)
    return f"{copy_s:.{decimals}f} s, the source has {track_s:.{decimals}f} s"


def _at(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _decimals(difference_s: float) -> int:
    """Return the decimals of a second that show the difference."""
    return 1 if abs(difference_s) >= 1 else 3
