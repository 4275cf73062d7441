"""Check a finished file's container: the pictures' number, times, size and labels, and all other tracks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from vace_batch.geometry import Size
from vace_batch.quality.track_faults import TOLERANCE_S, Side, left_out_tracks, track_faults
from vace_batch.video.inventory import Inventory, Track, colour_names, take_inventory
from vace_batch.video.probe import VideoInfo

_KEEPS_CHAPTERS = frozenset({"mp4", "mov", "matroska", "webm"})
_KEEPS_TIMECODE = frozenset({"mp4", "mov", "mxf"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Requirements on the output file.

    The source's frame 0 is frame `before` of the output, shown `lead_s` seconds after the output's first frame.
    `notes` are the writer's: a loss that they name is intended.
    """

    num_frames: int
    size: Size
    before: int = 0
    lead_s: Fraction = Fraction(0)
    notes: tuple[str, ...] = field(default=())

    def allows(self, loss: str) -> bool:
        """Return whether a note of the writer names the loss."""
        return any(loss in note for note in self.notes)


def container_faults(source: VideoInfo, output: VideoInfo, contract: Contract) -> list[str]:
    """List the broken requirements, one sentence each; reads all packets of both files, decodes a few of sound.

    Raises:
        ClipError: a file cannot be read.
    """
    before, after = take_inventory(source.path), take_inventory(output.path)
    lead_s = float(contract.lead_s)
    sides = (
        Side(inventory=before, container=source.container, first_s=_first_s(before.pictures)),
        Side(inventory=after, container=output.container, first_s=_first_s(after.pictures), lead_s=lead_s),
    )
    return [
        *_picture_faults(before.pictures, after.pictures, contract),
        *_look_faults(source, output, contract),
        *_side_data_faults(before, after, contract),
        *track_faults(*sides, left_out_tracks(contract.notes)),
        *_chapter_faults(*sides),
        *_timecode_faults(*sides, contract),
    ]


def _first_s(pictures: Track) -> float:
    """Return the time of the first picture that is shown; 0 for a track without times."""
    times = pictures.starts_s[pictures.shown & np.isfinite(pictures.starts_s)]
    return float(times.min()) if len(times) else 0.0


def _picture_faults(source: Track, output: Track, contract: Contract) -> Iterator[str]:
    """Compare the number of frames, and the times of the source's frames."""
    source_s, output_s = source.starts_s[source.shown], output.starts_s[output.shown]
    count = len(output_s)
    if count != contract.num_frames:
        yield f"{count:,} frames instead of {contract.num_frames:,}"
        return
    output_s = output_s[contract.before : contract.before + len(source_s)]
    if len(output_s) != len(source_s):
        return
    shifts = (output_s - output_s[0]) - (source_s - source_s[0])
    worst = int(np.argmax(np.abs(np.nan_to_num(shifts))))
    if abs(shifts[worst]) > max(source.tick_s, output.tick_s, 0.002) + 1e-6:
        direction = "late" if shifts[worst] > 0 else "early"
        yield f"frame {contract.before + worst} is shown {abs(shifts[worst]):.3f} s too {direction}"


def _look_faults(source: VideoInfo, output: VideoInfo, contract: Contract) -> Iterator[str]:
    """Compare size, rotation, shape of the pixels and colours: how a player shows a frame."""
    if output.size != contract.size:
        yield f"frames of {output.size} instead of {contract.size}"
    if output.display_matrix != source.display_matrix and not contract.allows("rotation left out"):
        yield f"a rotation of {output.rotation} degrees, the source has {source.rotation} degrees"
    aspect, source_aspect = output.sample_aspect_ratio or 1, source.sample_aspect_ratio or 1
    if aspect != source_aspect:
        yield f"pixels of {aspect}, the source has {source_aspect}"
    yield from _colour_faults(source, output)


def _colour_faults(source: VideoInfo, output: VideoInfo) -> Iterator[str]:
    """Compare the colour tags; a tag that the source leaves open may have any value."""
    colours = colour_names(output)
    for tag, name in colour_names(source).items():
        if name is not None and colours.get(tag, name) != name:
            yield f"{tag} {colours[tag] or 'untagged'}, the source has {name}"


def _side_data_faults(source: Inventory, output: Inventory, contract: Contract) -> Iterator[str]:
    """Compare the side data of the first frame."""
    for name, data in source.side_data.items():
        if contract.allows(name):
            continue
        if name not in output.side_data:
            yield f"{name} is missing"
        elif output.side_data[name] != data:
            yield f"{name} differs from the source's"


def _chapter_faults(source: Side, output: Side) -> Iterator[str]:
    """Compare titles and times of the chapters, where both containers keep chapters."""
    if not {source.container, output.container} <= _KEEPS_CHAPTERS:
        return
    chapters, copies = source.inventory.chapters, output.inventory.chapters
    if len(copies) != len(chapters):
        yield f"{len(copies)} of {len(chapters)} chapters"
        return
    for number, (chapter, copy) in enumerate(zip(chapters, copies, strict=True), start=1):
        late_s = float(copy.start_s) - output.zero_s - (float(chapter.start_s) - source.zero_s)
        if copy.title != chapter.title:
            yield f"chapter {number} is called {copy.title!r}, in the source {chapter.title!r}"
        from_the_start = number == 1 and output.container in ("mp4", "mov")  # their first chapter begins at 0
        if abs(late_s) > TOLERANCE_S and not from_the_start:
            yield f"chapter {number} begins {abs(late_s):.3f} s {'late' if late_s > 0 else 'early'}"


def _timecode_faults(source: Side, output: Side, contract: Contract) -> Iterator[str]:
    """Compare the timecode of the first frame, where both containers keep one."""
    same = source.container == output.container or {source.container, output.container} <= _KEEPS_TIMECODE
    timecode, copy = source.inventory.timecode, output.inventory.timecode
    if same and timecode is not None and copy != timecode and not contract.before:
        yield f"timecode {copy or 'none'}, the source has {timecode}"
