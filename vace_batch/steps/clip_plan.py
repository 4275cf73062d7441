"""The plan of a clip: shots, regions, windows, and the files of masks and recovered pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AliasChoices, Field, TypeAdapter

from vace_batch.geometry import Size
from vace_batch.planning.stills import Still
from vace_batch.planning.windows import Region, Shot, Window
from vace_batch.vcu.controls import Scale
from vace_batch.video.canvas_frames import Canvas

FILES = ("masks", "recovered", "holes", "selection", "protected")
"""What a plan's files are called."""


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


CLIP_PLAN = TypeAdapter(ClipPlan)
"""Reads and writes plans in the ledger's records."""
