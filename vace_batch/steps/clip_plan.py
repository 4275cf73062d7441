"""The plan of a clip: its shots, regions and windows, and its files of masks and recovered pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO, Literal, get_args

from pydantic import TypeAdapter

from vace_batch.background.patches import Patch, PatchReader
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.masks.store import FrameMask, MaskReader
from vace_batch.planning.stills import Still
from vace_batch.planning.windows import Region, Shot, Window
from vace_batch.storage.node_cache import open_cached
from vace_batch.vcu.controls.videos import Scale
from vace_batch.video.canvas_frames import Canvas

FileKind = Literal["masks", "recovered", "holes", "selection", "protected"]
"""Kinds of a plan's files. `recovered` holds patches of pixels, every other kind masks."""

FILE_KINDS: tuple[FileKind, ...] = get_args(FileKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWindow:
    """A window of a plan, with the time of its first source frame and the digest of its masks and recovered pixels.

    `start_pts` and `lead_pts`, the time of the frame before, are in the stream's time base. `shot` is the shot's
    (start, stop) if the shot decides pixels.
    """

    window: Window
    start_pts: int
    known_digest: str
    shot: tuple[int, int] | None = None
    lead_pts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """The plan of one clip, in frames and pixels of its `canvas`.

    Files are named relative to OUT, None without one: `masks` of the pixels to change, `recovered` pixels under them
    from other frames, `holes`, the masked pixels left for the model, `selection` masks that steer, `protected` masks of
    pixels that must not change. `new` is (start, stop) of the frames that extend the source. `scales` are the ranges of
    the controls by shot. `stills` reuse one window for many frames. `doubts` are the notes for which a person must
    review the clip; `nothing` is why a clip without `masks` has none.
    """

    size: Size
    num_frames: int
    shots: tuple[Shot, ...]
    regions: tuple[Region, ...]
    windows: tuple[PlannedWindow, ...]
    masked_frames: int
    canvas: Canvas
    stills: tuple[Still, ...] = ()
    new: tuple[int, int] = (0, 0)
    scales: tuple[dict[str, Scale], ...] = ()
    recovered_share: float = 0.0
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    nothing: str | None = None
    source_bytes: int = 0
    masks: str | None = None
    recovered: str | None = None
    holes: str | None = None
    selection: str | None = None
    protected: str | None = None

    @property
    def span(self) -> range:
        """The canvas's frames that come from the source."""
        return range(self.canvas.before, self.num_frames - self.canvas.after)

    @property
    def new_frames(self) -> range:
        """The canvas's frames that extend the source."""
        return range(*self.new)

    def region_of(self, planned: PlannedWindow) -> Region:
        """Return the region of a window."""
        return self.regions[planned.window.region]

    @property
    def files(self) -> dict[FileKind, str]:
        """The names of the clip's files by kind; a kind without a file is left out."""
        names: dict[FileKind, str | None] = {
            "masks": self.masks,
            "recovered": self.recovered,
            "holes": self.holes,
            "selection": self.selection,
            "protected": self.protected,
        }
        return {kind: name for kind, name in names.items() if name is not None}

    def with_files(self, names: Mapping[FileKind, str]) -> ClipPlan:
        """Replace the names of all files; a kind that `names` lacks has no file."""
        return replace(
            self,
            masks=names.get("masks"),
            recovered=names.get("recovered"),
            holes=names.get("holes"),
            selection=names.get("selection"),
            protected=names.get("protected"),
        )

    @contextlib.contextmanager
    def open_files(self, ledger: Ledger) -> Iterator[PlanFiles]:
        """Open the clip's files in OUT for reading."""
        with contextlib.ExitStack() as stack:
            yield PlanFiles(
                {kind: stack.enter_context(open_cached(ledger.absolute(name))) for kind, name in self.files.items()}
            )


class PlanFiles:
    """The open files of a plan. A kind without a file reads as empty."""

    def __init__(self, files: Mapping[FileKind, BinaryIO]) -> None:
        self._files = files
        self._readers: dict[FileKind, MaskReader] = {}

    def mask_reader(self, kind: FileKind) -> MaskReader | None:
        """Return the reader of a mask file, made at first use; None without a file."""
        if kind in self._files and kind not in self._readers:
            self._readers[kind] = MaskReader(self._files[kind])
        return self._readers.get(kind)

    def masks(self, kind: FileKind, start: int, stop: int) -> dict[int, FrameMask]:
        """Read the masks of frames start..stop-1, by frame."""
        reader = self.mask_reader(kind)
        return {} if reader is None else reader.get(start, stop)

    def patches(self, start: int, stop: int) -> dict[int, Patch]:
        """Read the recovered pixels of frames start..stop-1, by frame."""
        return {} if self._patch_reader is None else self._patch_reader.get(start, stop)

    @cached_property
    def _patch_reader(self) -> PatchReader | None:
        return PatchReader(self._files["recovered"]) if "recovered" in self._files else None


CLIP_PLAN = TypeAdapter(ClipPlan)
"""Reads and writes plans as JSON in the ledger's records."""
