"""Tasks: what each one says of every pixel. `window` has one function a task, `condition` the processes under them."""

from vace_batch.tasks.condition import PROCESSES, Condition, compose, control, extension, repaint, unseen
from vace_batch.tasks.references import REFERENCE_MODES, fit_reference, prepare_references
from vace_batch.tasks.window import (
    MAX_R2V_REFERENCES,
    WindowSettings,
    composition,
    extended,
    inpainting,
    make_vcu,
    outpainting,
    r2v,
    removal,
    restyle,
    t2v,
)
from vace_batch.vcu import VCU

__all__ = [
    "MAX_R2V_REFERENCES",
    "PROCESSES",
    "REFERENCE_MODES",
    "VCU",
    "Condition",
    "WindowSettings",
    "compose",
    "composition",
    "control",
    "extended",
    "extension",
    "fit_reference",
    "inpainting",
    "make_vcu",
    "outpainting",
    "prepare_references",
    "r2v",
    "removal",
    "repaint",
    "restyle",
    "t2v",
    "unseen",
]
