"""What one manifest row asks for, as frozen values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# A preset's values are in the job once it is resolved; its name decides nothing.
_NO_PIXELS = ("job_id", "row", "priority", "output_uri", "preset")

COMPOSITIONS: dict[str, tuple[str, ...]] = {
    "reference": (),
    "animate": ("control",),
    "swap": ("repaint",),
    "move": ("extension", "control"),
    "expand": ("repaint", "extension"),
}
"""VACE's ready-made compositions: which processes they combine; without any all of the picture is new."""


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
    mask_uri: str | None = None


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
    mask_rule: str | None = None
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
    expert: str = "both"


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

    mode: str = "first"
    unit: str = "clip"
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One manifest row: one video, one task. URIs are absolute (relative ones were resolved against the manifest)."""

    job_id: str
    video_uri: str
    task: str
    row: int = 0
    targets: tuple[str, ...] = ()
    pick: Pick = field(default_factory=Pick)
    boxes: tuple[BoxKey, ...] = ()
    points: tuple[PointKey, ...] = ()
    mask_uri: str | None = None
    protect: Protect = field(default_factory=Protect)
    detector: str | None = None
    segmenter: str | None = None
    mask_shape: str = "mask"
    mask_shadow: str = "auto"
    background: str = "auto"
    dilate: Dilation | None = None
    prompt: str = ""
    negative_prompt: str | None = None
    reference_uris: tuple[str, ...] = ()
    reference_boxes: tuple[BoxKey, ...] = ()
    reference_mask_uris: tuple[str, ...] = ()
    reference_mode: str = "plain"
    reference_background: str = "keep"
    control: str | None = None
    control_weights: str | None = None
    expand: Expand | None = None
    extend: Extend | None = None
    compose: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    seed: int | None = None
    seed_scope: str | None = None
    priority: int = 0
    preset: str | None = None
    model: str | None = None
    loras: tuple[LoraRef, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    output_uri: str | None = None

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls that steer this job, in order: none, one, or two that are combined."""
        return tuple(self.control.split("+")) if self.control else ()

    @property
    def masks_select(self) -> bool:
        """Whether masks say where a control rules or what a layout shows, and not what changes: all of it does."""
        by_layout = any(name.startswith("layout") for name in self.controls)
        return "repaint" not in self.processes and (by_layout or len(self.controls) == 2)

    @property
    def processes(self) -> tuple[str, ...]:
        """What a composition combines, in order: at most two of repaint, extension, control."""
        return COMPOSITIONS[self.compose] if self.compose in COMPOSITIONS else tuple((self.compose or "").split("+"))

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


def pixel_fields(job: Job) -> dict[str, Any]:
    """The part of `job` that decides pixels, as plain JSON values, for identity digests.

    Left out: job_id, row, priority, output_uri and every x_ column. URIs are in it as text; an identity puts the
    digests of what they point to in their place.
    """
    kept = {name: value for name, value in members(job).items() if name not in _NO_PIXELS}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=members))
    return plain


def job_json(job: Job) -> str:
    """A manifest row as one line of JSON."""
    return json.dumps(members(job), default=members, sort_keys=True)


def members(part: Any) -> dict[str, Any]:
    """The fields of a part of a job; `dataclasses.asdict` copies each value deeply, most of planning's time."""
    return {name: getattr(part, name) for name in part.__dataclass_fields__}
