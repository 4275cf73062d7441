"""The objects found in a frame, and the notes for people about a clip's masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from vace_batch.geometry import Box
from vace_batch.masks.store import FrameMask

_MOST_SPANS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameObjects:
    """The objects found in frame `index`: `selected` masks to replace, `guarded` masks to protect.

    `names` has the class and number of each selected mask, empty if it is not a tracked object's. `from_memory`: SAM
    2's memory alone found one of the objects. `without_outline`: the segmenter found no outline of one of the objects,
    and its box is the mask. `detected`: a detector looked at the frame, and was not skipped.
    """

    index: int
    selected: Sequence[FrameMask] = ()
    guarded: Sequence[FrameMask] = ()
    names: Sequence[str] = ()
    from_memory: bool = False
    without_outline: bool = False
    detected: bool = False


@dataclass(slots=True)
class Notes:
    """Notes for people about a clip's masks.

    `notes` go into the clip's result; `doubts` do so too, and the clip's verdict is no pass. `objects` holds each
    frame's tracked objects with their boxes; None does not collect them. `frames` counts the frames that were masked or
    not, `detected` the frames among them that a detector looked at, `selected` the frames with a mask before protected
    pixels were subtracted.
    """

    notes: list[str] = field(default_factory=list)
    objects: dict[int, list[tuple[str, Box]]] | None = None
    doubts: list[str] = field(default_factory=list)
    frames: int = 0
    detected: int = 0
    selected: int = 0

    def add(self, note: str) -> None:
        """Add a note, unless the same note is there already."""
        if note not in self.notes:
            self.notes.append(note)

    def doubt(self, note: str) -> None:
        """Add a note for which a person must review the clip, unless the same note is there already."""
        self.add(note)
        if note not in self.doubts:
            self.doubts.append(note)

    def see(self, frame: FrameObjects) -> None:
        """Count a frame, and collect its named objects."""
        self.frames += 1
        self.detected += frame.detected
        if self.objects is not None:
            named = zip(frame.names, frame.selected, strict=True)
            self.objects[frame.index] = [(name, mask.box) for name, mask in named if name]


@dataclass(slots=True)
class Fallbacks:
    """The frames whose masks come from SAM 2's memory alone, or from a box in place of an outline."""

    from_memory: list[int] = field(default_factory=list)
    without_outline: list[int] = field(default_factory=list)

    def see(self, frame: FrameObjects) -> None:
        """Record the next frame."""
        if frame.from_memory:
            self.from_memory.append(frame.index)
        if frame.without_outline:
            self.without_outline.append(frame.index)

    def notes(self) -> Iterator[str]:
        """Yield a note for each kind of fallback, with its frames."""
        if self.from_memory:
            yield f"from_memory: SAM 2's memory alone found an object on {_listed(self.from_memory)}"
        if self.without_outline:
            reason = "the segmenter found no outline; the detector's mask or the box is used"
            yield f"no_outline: {_listed(self.without_outline)}: {reason}"


def _listed(frames: Collection[int]) -> str:
    """Format frame numbers: `3 frames (4, 7-8)`; of many spans only the first."""
    spans: list[list[int]] = []
    for index in sorted(frames):
        if not spans or index > spans[-1][1] + 1:
            spans.append([index, index])
        spans[-1][1] = index
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in spans[:_MOST_SPANS]]
    return f"{len(frames)} frames ({', '.join(shown)}{', ...' if len(spans) > _MOST_SPANS else ''})"
