"""Choices of a manifest: each column's words as a type and as a tuple, and the tasks that take a column."""

from __future__ import annotations

from typing import Literal, get_args

from vace_batch.options import LoraExpert

Task = Literal["removal", "inpainting", "restyle", "t2v", "r2v", "outpainting", "extension", "composition"]
MaskShape = Literal["mask", "filled", "hull", "box"]
Switch = Literal["auto", "off"]
Control = Literal["depth", "pose", "pose_body", "flow", "gray", "scribble", "layout_bbox", "layout_track", "plain"]
Process = Literal["repaint", "extension", "control"]
ExtendMode = Literal["first", "last", "firstlast"]
ExtendUnit = Literal["frame", "clip"]
ReferenceMode = Literal["plain", "subject", "salient", "face"]
"""plain: the whole image; subject: its box or mask; salient: the part that stands out; face: the largest face."""
ReferenceBackground = Literal["keep", "white"]
SeedScope = Literal["window", "shot", "programme"]
MaskRule = Literal["nearest", "max4"]
"""How a mask is shrunk in time: nearest (stock), or max4 (frame 0, then the maximum of each four frames)."""
PresetName = Literal["standard", "removal", "removal-lora", "restyle", "reference", "fast"]

TASKS: tuple[Task, ...] = get_args(Task)
MASK_SHAPES: tuple[MaskShape, ...] = get_args(MaskShape)
SWITCHES: tuple[Switch, ...] = get_args(Switch)
CONTROLS: tuple[Control, ...] = get_args(Control)
PROCESSES: tuple[Process, ...] = get_args(Process)
EXTEND_MODES: tuple[ExtendMode, ...] = get_args(ExtendMode)
EXTEND_UNITS: tuple[ExtendUnit, ...] = get_args(ExtendUnit)
REFERENCE_MODES: tuple[ReferenceMode, ...] = get_args(ReferenceMode)
REFERENCE_BACKGROUNDS: tuple[ReferenceBackground, ...] = get_args(ReferenceBackground)
SEED_SCOPES: tuple[SeedScope, ...] = get_args(SeedScope)
MASK_RULES: tuple[MaskRule, ...] = get_args(MaskRule)
LORA_EXPERTS: tuple[LoraExpert, ...] = get_args(LoraExpert)

CONTROL_NETWORKS = {"depth": "depth", "pose": "pose", "pose_body": "pose"}
"""The kind of weights that draws a control, by control; other controls need no weights."""

COMPOSITIONS: dict[str, tuple[Process, ...]] = {
    "reference": (),
    "animate": ("control",),
    "swap": ("repaint",),
    "move": ("extension", "control"),
    "expand": ("repaint", "extension"),
}
"""VACE's named compositions and the processes that each combines; a composition without a process generates all."""

MASKED_TASKS: tuple[Task, ...] = ("removal", "inpainting")
UNMASKED_TASKS: tuple[Task, ...] = ("t2v", "r2v", "outpainting", "extension")
REFERENCE_TASKS: tuple[Task, ...] = ("inpainting", "restyle", "r2v", "composition")
CONTROL_TASKS: tuple[Task, ...] = ("restyle", "composition")
EXPAND_TASKS: tuple[Task, ...] = ("outpainting", "composition")
PROTECT_TASKS: tuple[Task, ...] = (*MASKED_TASKS, "restyle", "composition")
EXTEND_TASKS: tuple[Task, ...] = ("extension", "composition")

MAX_R2V_REFERENCES = 3
