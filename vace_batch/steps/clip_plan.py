"""The plan of a clip: shots, regions, windows, and the files of masks and recovered pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, BinaryIO, Literal, get_args

from pydantic import AliasChoices, Field, TypeAdapter

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
"""Kinds of a plan's files: all hold masks, but `recovered` holds patches of pixels."""

FILE_KINDS: tuple[FileKind, ...] = get_args(FileKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWindow:
    """A window, where its first source frame is in the file, and the digest of the masks and recovered pixels in it.

    `shot` is its shot's first and last frame + 1 where these decide pixels; `lead_pts` the time of the frame before.
    """

    window: Window
    start_pts: int
    known_digest: str
    shot: tuple[int, int] | None = None
    lead_pts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """What is to be made of one clip.

    Names of files in OUT, None where there is nothing: `masks` is what is to change, `recovered` the pixels under it
    that other frames show, `holes` what is left of the masks for the model, `selection` masks that steer, `protected`
    what must not change. Frames and boxes are those of the `canvas`, `new` the frames that extend it; `scales` are, by
    shot, the ranges of controls; `stills` what one window paints for many frames.
    """

    size: Size
    num_frames: int
    shots: tuple[Shot, ...]
    regions: tuple[Region, ...]
    windows: tuple[PlannedWindow, ...]
    masked_frames: int
    canvas: Annotated[Canvas, Field(validation_alias=AliasChoices("canvas", "stage"))]
    """Called `stage` in records of earlier versions."""
    stills: tuple[Still, ...] = ()
    new: tuple[int, int] = (0, 0)
    scales: tuple[dict[str, Scale], ...] = ()
    recovered_share: float = 0.0
    notes: tuple[str, ...] = ()
    source_bytes: int = 0
    masks: str | None = None
    recovered: str | None = None
    holes: str | None = None
    selection: str | None = None
    protected: str | None = None

    @property
    def span(self) -> range:
        """The canvas's frames that the source has."""
        return range(self.canvas.before, self.num_frames - self.canvas.after)

    @property
    def new_frames(self) -> range:
        """The canvas's frames that extend the source."""
        return range(*self.new)

    def region_of(self, planned: PlannedWindow) -> Region:
        """The region that a window belongs to."""
        return self.regions[planned.window.region]

    @property
    def files(self) -> dict[FileKind, str]:
        """Names of the clip's files by kind; a kind without a file is missing."""
        names: dict[FileKind, str | None] = {
            "masks": self.masks,
            "recovered": self.recovered,
            "holes": self.holes,
            "selection": self.selection,
            "protected": self.protected,
        }
        return {kind: name for kind, name in names.items() if name is not None}

    def with_files(self, names: Mapping[FileKind, str]) -> ClipPlan:
        """The same plan with other names of its files."""
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
        """The reader of a mask file, made at first use."""
        if kind in self._files and kind not in self._readers:
            self._readers[kind] = MaskReader(self._files[kind])
        return self._readers.get(kind)

    def masks(self, kind: FileKind, start: int, stop: int) -> dict[int, FrameMask]:
        """Masks of frames start..stop-1 by frame."""
        reader = self.mask_reader(kind)
        return {} if reader is None else reader.get(start, stop)

    def patches(self, start: int, stop: int) -> dict[int, Patch]:
        """Recovered pixels of frames start..stop-1 by frame."""
        return {} if self._patch_reader is None else self._patch_reader.get(start, stop)

    @cached_property
    def _patch_reader(self) -> PatchReader | None:
        return PatchReader(self._files["recovered"]) if "recovered" in self._files else None


CLIP_PLAN = TypeAdapter(ClipPlan)
"""Reads and writes plans in the ledger's records."""
