"""A job: one row of a manifest, parsed into frozen values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

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

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Decides = Literal["nothing", "masks", "plan", "pixels"]
"""The results that a column changes. `masks`: the masks and, through the masks, the plan; `plan`: the clip's plan and
each window's pixels; `pixels`: each window's pixels alone. The identities of a clip are made from this declaration.
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
    """A box in display pixels: a keyframe of the track `object_id`, or with `frame` None a box for the whole clip."""

    x: float
    y: float
    width: float
    height: float
    frame: int | None = None
    object_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKey:
    """A point prompt for SAM, in display pixels on `frame`; `positive` False marks background."""

    x: float
    y: float
    frame: int = 0
    object_id: int = 0
    positive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A choice among the objects that `targets` find.

    `exclude` leaves out classes, `largest` keeps only the largest object of each shot, and `tracks` keeps only the
    objects with these numbers, which `vace-batch masks` shows.
    """

    exclude: tuple[str, ...] = ()
    largest: bool = False
    tracks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """Regions that must not change: they are subtracted from every mask, after all growth of the mask."""

    targets: tuple[str, ...] = ()
    boxes: tuple[BoxKey, ...] = ()
    mask_uri: str | None = field(default=None, metadata=_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dilation:
    """The growth of a mask: `px` source pixels, `percent` of the object's longer side, or `tokens` of 16 px.

    A token is 16 source pixels where the model sees the frame at the source's size.
    """

    px: float | None = None
    percent: float | None = None
    tokens: float | None = None


DEFAULT_DILATION = Dilation(px=6.0)
"""Covers the error of detectors, segmenters and boxes."""
FILE_DILATION = Dilation(px=3.0)
"""Covers the soft edge that a codec draws round an object; a mask file is exact otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A job's sampling values; None keeps the value of the preset or of the model profile."""

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
    """A LoRA file and its weight: 1 is full strength, less is weaker, and below 0 inverts the LoRA.

    `expert` names the transformer of a two-expert model that takes the LoRA: high or low (noise), or both.
    """

    uri: str
    weight: float = 1.0
    expert: LoraExpert = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """The growth of the frame on each side, as a share of the frame's width or height.

    `inner` keeps the frame's size: the share along each side is generated anew inside the frame instead.
    """

    left: float = 0.0
    right: float = 0.0
    up: float = 0.0
    down: float = 0.0
    inner: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """The frames to generate beside known frames.

    `mode`: the known frames come first, last, or first and last. `unit`: one known frame (frame), or as many as fit
    into a window (clip). `seconds`: the time by which the clip grows; None generates the frames from start_s to end_s
    anew.
    """

    mode: ExtendMode = "first"
    unit: ExtendUnit = "clip"
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A file that a job reads, with its column, its place in a list column, and the results that the file changes."""

    column: str
    number: int | None = None
    uri: str
    decides: Decides

    @property
    def cell(self) -> str:
        """The place of the file in its row, as messages show it: `reference_uris[0]`."""
        return self.column if self.number is None else f"{self.column}[{self.number}]"

    @property
    def fingerprint_name(self) -> str:
        """The name of the file's fingerprint in an identity: `reference_uris.0`."""
        return self.column if self.number is None else f"{self.column}.{self.number}"


def split_controls(control: str | None) -> tuple[Control, ...]:
    """Split the column `control` into at most two controls, in order."""
    return cast("tuple[Control, ...]", tuple(control.split("+"))) if control else ()


def split_processes(compose: str | None) -> tuple[Process, ...]:
    """Split the column `compose` into processes, in order; a composition's name stands for its processes."""
    if not compose:
        return ()
    if compose in COMPOSITIONS:
        return COMPOSITIONS[compose]
    return cast("tuple[Process, ...]", tuple(compose.split("+")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One manifest row: one video and one task. URIs are absolute; the reader resolved relative URIs."""

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
    # True gives the clip another identity, by `ClipWork`; masks, plan and windows stay the same.
    expect_found: bool | None = field(default=None, metadata=_NOTHING)
    output_uri: str | None = field(default=None, metadata=_NOTHING)

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls that steer this job, in order: at most two, which are combined."""
        return split_controls(self.control)

    @property
    def masks_select(self) -> bool:
        """Whether masks select where a control or a layout applies, while the whole frame changes."""
        by_layout = any(name.startswith("layout") for name in self.controls)
        return "repaint" not in self.processes and (by_layout or len(self.controls) == 2)

    @property
    def processes(self) -> tuple[Process, ...]:
        """The processes that a composition combines, in order: at most two of repaint, extension, control."""
        return split_processes(self.compose)

    def files(self) -> Iterator[JobFile]:
        """List every file that the job reads, weights excepted."""
        yield from _files_of("", self, "nothing")

    @property
    def has_mask_source(self) -> bool:
        """Whether the job has a mask source; without a mask source a task changes whole frames, or nothing."""
        return bool(self.boxes or self.mask_uri or self.targets or self.points)

    @property
    def mask_dilation(self) -> Dilation:
        """The growth of the masks: `dilate`, or a default, smaller if a mask file is the only source."""
        only_file = self.mask_uri is not None and not (self.boxes or self.targets or self.points)
        return self.dilate or (FILE_DILATION if only_file else DEFAULT_DILATION)

    @property
    def protects(self) -> bool:
        """Whether the job names regions that must not change."""
        return self.protect != Protect()

    @property
    def needs_pixels(self) -> bool:
        """Whether a model finds the masks in frames, so that the mask step decodes the video."""
        by_model = self.targets or self.protect.targets or self.points
        return bool(by_model or (self.boxes and self.segmenter))


def _files_of(at: str, part: DataclassInstance, decides: Decides) -> Iterator[JobFile]:
    """List the files that the fields of `part`, a job or a struct of a job, name."""
    for column in fields(part):
        value, decided = getattr(part, column.name), column.metadata.get("decides", decides)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _files_of(f"{column.name}.", value, decided)
        elif column.metadata.get("counts") != "fingerprint" or value is None:
            continue
        elif isinstance(value, str):
            yield JobFile(column=at + column.name, uri=value, decides=decided)
        else:
            for number, uri in enumerate(value):
                yield JobFile(column=at + column.name, number=number, uri=uri, decides=decided)


DECIDES: dict[str, Decides] = {part.name: part.metadata["decides"] for part in fields(Job)}
"""The results that each column of a job changes."""


def identity_fields(job: Job) -> dict[str, Any]:
    """Return the columns of `job` that change a result, as plain JSON values, for identity digests.

    Files and LoRAs are left out: an identity holds the fingerprints of their content instead.
    """
    kept = {name: value for name, value in _counted(job).items() if DECIDES[name] != "nothing"}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=_counted))
    return plain


def _counted(part: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a job, or of a struct of a job, that count in an identity by their value."""
    counted = (column.name for column in fields(part) if column.metadata.get("counts", "value") == "value")
    return {name: getattr(part, name) for name in counted}


def job_json(job: Job) -> str:
    """Write a job as one line of JSON."""
    return json.dumps(members(job), default=members, sort_keys=True)


def members(part: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a job or of a struct of a job, not copied: deep copies took most of planning's time."""
    return {name: getattr(part, name) for name in part.__dataclass_fields__}
