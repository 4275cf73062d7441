"""What one manifest row asks for, as frozen values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, cast

from vace_batch.manifest.choices import (
    COMPOSITIONS,
    Control,
    ExtendMode,
    ExtendUnit,
    MaskRule,
    MaskShape,
    PresetName,
    Process,
    ReferenceBackground,
    ReferenceMode,
    SeedScope,
    Switch,
    Task,
)
from vace_batch.options import LoraExpert

Decides = Literal["nothing", "masks", "plan", "pixels"]
"""What a column decides. `masks`: the masks, and through them the plan; `plan`: the plan of the clip and the pixels of
each window; `pixels`: the pixels of each window alone. The identities of a clip are made from this declaration.
"""

_NOTHING = {"decides": "nothing"}
_MASKS = {"decides": "masks"}
_PLAN = {"decides": "plan"}
_PIXELS = {"decides": "pixels"}
# A file counts in an identity by the fingerprint of its content, a LoRA as it was resolved; neither counts by its name.
_FILE = {"counts": "fingerprint"}
_RESOLVED = {"counts": "resolved"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxKey:
    """A box in display pixels; `frame` None holds for the whole clip, else a keyframe of `object_id`'s track."""

    x: float
    y: float
    width: float
    height: float
    frame: int | None = None
    object_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKey:
    """A SAM prompt in display pixels on `frame`; `positive` False marks background."""

    x: float
    y: float
    frame: int = 0
    object_id: int = 0
    positive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Which of the objects that `targets` find are meant: not classes `exclude`, of each shot the `largest` alone, or
    those numbered `tracks` (as `vace-batch masks` shows them)."""

    exclude: tuple[str, ...] = ()
    largest: bool = False
    tracks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """What must not change; subtracted from every mask, and wins."""

    targets: tuple[str, ...] = ()
    boxes: tuple[BoxKey, ...] = ()
    mask_uri: str | None = field(default=None, metadata=_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dilation:
    """How far a mask grows: `px` source pixels, `percent` of the object's longer side, or `tokens` of 16 px.

    A token is 16 source pixels wherever the model sees the picture at its own size.
    """

    px: float | None = None
    percent: float | None = None
    tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Overrides of the model profile's sampling; None keeps the profile's value."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    boundary_ratio: float | None = None
    flow_shift: float | None = None
    conditioning_scale: float | None = None
    mask_rule: MaskRule | None = None
    guidance_from: float | None = None
    guidance_until: float | None = None
    step_cache: float | None = None
    max_tokens: int | None = None
    max_frames: int | None = None
    overlap_frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRef:
    """A LoRA file and how much of it: 1 is all, less is weaker, below 0 away from it.

    `expert` says into which transformer of a model that has two: high or low (noise), or both.
    """

    uri: str
    weight: float = 1.0
    expert: LoraExpert = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """How far the picture grows on each side, as a share of its width or height.

    `inner` keeps the size: the share of the picture along each side is made anew instead.
    """

    left: float = 0.0
    right: float = 0.0
    up: float = 0.0
    down: float = 0.0
    inner: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Which frames are new. `mode`: what is known comes first, last, or first and last.

    `unit`: one known frame (frame) or as many as a window takes (clip). `seconds`: the clip grows by that much; without
    it the frames from start_s to end_s are made anew.
    """

    mode: ExtendMode = "first"
    unit: ExtendUnit = "clip"
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A file that a job reads: its column, its place in a column that is a list, and what the file decides."""

    column: str
    number: int | None = None
    uri: str
    decides: Decides

    @property
    def cell(self) -> str:
        """The file's place in its row, as messages show it: `reference_uris[0]`."""
        return self.column if self.number is None else f"{self.column}[{self.number}]"

    @property
    def fingerprint_name(self) -> str:
        """The name of the file's fingerprint: `reference_uris.0`."""
        return self.column if self.number is None else f"{self.column}.{self.number}"


def split_controls(control: str | None) -> tuple[Control, ...]:
    """The controls that the column `control` names, in order: none, one, or two joined by "+"."""
    return cast("tuple[Control, ...]", tuple(control.split("+"))) if control else ()


def split_processes(compose: str | None) -> tuple[Process, ...]:
    """The processes that the column `compose` combines, in order: by a composition's name, or joined by "+"."""
    if not compose:
        return ()
    if compose in COMPOSITIONS:
        return COMPOSITIONS[compose]
    return cast("tuple[Process, ...]", tuple(compose.split("+")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One manifest row: one video, one task. URIs are absolute (relative ones were resolved against the manifest)."""

    job_id: str = field(metadata=_NOTHING)
    video_uri: str = field(metadata=_PLAN | _FILE)
    task: Task = field(metadata=_PLAN)
    row: int = field(default=0, metadata=_NOTHING)
    targets: tuple[str, ...] = field(default=(), metadata=_MASKS)
    pick: Pick = field(default_factory=Pick, metadata=_MASKS)
    boxes: tuple[BoxKey, ...] = field(default=(), metadata=_MASKS)
    points: tuple[PointKey, ...] = field(default=(), metadata=_MASKS)
    mask_uri: str | None = field(default=None, metadata=_MASKS | _FILE)
    protect: Protect = field(default_factory=Protect, metadata=_MASKS)
    detector: str | None = field(default=None, metadata=_MASKS)
    segmenter: str | None = field(default=None, metadata=_MASKS)
    mask_shape: MaskShape = field(default="mask", metadata=_MASKS)
    mask_shadow: Switch = field(default="auto", metadata=_MASKS)
    background: Switch = field(default="auto", metadata=_MASKS)
    dilate: Dilation | None = field(default=None, metadata=_MASKS)
    prompt: str = field(default="", metadata=_PIXELS)
    negative_prompt: str | None = field(default=None, metadata=_PIXELS)
    reference_uris: tuple[str, ...] = field(default=(), metadata=_PIXELS | _FILE)
    reference_boxes: tuple[BoxKey, ...] = field(default=(), metadata=_PIXELS)
    reference_mask_uris: tuple[str, ...] = field(default=(), metadata=_PIXELS | _FILE)
    reference_mode: ReferenceMode = field(default="plain", metadata=_PIXELS)
    reference_background: ReferenceBackground = field(default="keep", metadata=_PIXELS)
    control: str | None = field(default=None, metadata=_PLAN)
    control_weights: str | None = field(default=None, metadata=_PLAN)
    expand: Expand | None = field(default=None, metadata=_PLAN)
    extend: Extend | None = field(default=None, metadata=_PLAN)
    compose: str | None = field(default=None, metadata=_PLAN)
    start_s: float | None = field(default=None, metadata=_MASKS)
    end_s: float | None = field(default=None, metadata=_MASKS)
    seed: int | None = field(default=None, metadata=_PIXELS)
    seed_scope: SeedScope | None = field(default=None, metadata=_PLAN)
    priority: int = field(default=0, metadata=_NOTHING)
    # The preset's values are in the job once `with_preset` has resolved it; its name decides nothing.
    preset: PresetName | None = field(default=None, metadata=_NOTHING)
    model: str | None = field(default=None, metadata=_PIXELS)
    loras: tuple[LoraRef, ...] | None = field(default=None, metadata=_PIXELS | _RESOLVED)
    sampling: Sampling = field(default_factory=Sampling, metadata=_PIXELS)
    output_uri: str | None = field(default=None, metadata=_NOTHING)

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls that steer this job, in order: none, one, or two that are combined."""
        return split_controls(self.control)

    @property
    def masks_select(self) -> bool:
        """Whether masks say where a control rules or what a layout shows, and not what changes: all of it does."""
        by_layout = any(name.startswith("layout") for name in self.controls)
        return "repaint" not in self.processes and (by_layout or len(self.controls) == 2)

    @property
    def processes(self) -> tuple[Process, ...]:
        """What a composition combines, in order: at most two of repaint, extension, control."""
        return split_processes(self.compose)

    def files(self) -> Iterator[JobFile]:
        """Every file that the job names to be read, but for weights."""
        yield from _files_of("", self, "nothing")

    @property
    def has_mask_source(self) -> bool:
        """Whether the job says where to change the frames; without it a task changes all of a frame, or nothing."""
        return bool(self.boxes or self.mask_uri or self.targets or self.points)

    @property
    def protects(self) -> bool:
        """Whether the job names pixels that must not change."""
        return self.protect != Protect()

    @property
    def needs_pixels(self) -> bool:
        """Whether a model makes the masks from frames, so that making masks decodes the video."""
        by_model = self.targets or self.protect.targets or self.points
        return bool(by_model or (self.boxes and self.segmenter))


def _files_of(at: str, part: Any, decides: Decides) -> Iterator[JobFile]:
    """The files that the fields of `part`, a job or a struct in it, name."""
    for column in fields(part):
        value, decided = getattr(part, column.name), column.metadata.get("decides", decides)
        if is_dataclass(value):
            yield from _files_of(f"{column.name}.", value, decided)
        elif column.metadata.get("counts") != "fingerprint" or value is None:
            continue
        elif isinstance(value, str):
            yield JobFile(column=at + column.name, uri=value, decides=decided)
        else:
            for number, uri in enumerate(value):
                yield JobFile(column=at + column.name, number=number, uri=uri, decides=decided)


DECIDES: dict[str, Decides] = {part.name: part.metadata["decides"] for part in fields(Job)}
"""By column, what it decides."""


def identity_fields(job: Job) -> dict[str, Any]:
    """The columns of `job` that decide something, as plain JSON values, for identity digests.

    Files and LoRAs are left out: an identity has the fingerprints of their content instead.
    """
    kept = {name: value for name, value in _counted(job).items() if DECIDES[name] != "nothing"}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=_counted))
    return plain


def _counted(part: Any) -> dict[str, Any]:
    """The fields of a job, or of a struct in it, that count in an identity by their value."""
    counted = (column.name for column in fields(part) if column.metadata.get("counts", "value") == "value")
    return {name: getattr(part, name) for name in counted}


def job_json(job: Job) -> str:
    """A manifest row as one line of JSON."""
    return json.dumps(members(job), default=members, sort_keys=True)


def members(part: Any) -> dict[str, Any]:
    """The fields of a part of a job; `dataclasses.asdict` copies each value deeply, most of planning's time."""
    return {name: getattr(part, name) for name in part.__dataclass_fields__}
