"""Build the VCU of each task from aligned frames and masks, one function a task; no later step knows the task.

A task says three things of each pixel: what the frames show there, whether it is generated, whether it says anything.
To add a task, add its function and its line in `make_vcu`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size
from vace_batch.manifest.choices import MAX_R2V_REFERENCES, TASKS
from vace_batch.manifest.job import Job
from vace_batch.manifest.presets import default_negative_prompt
from vace_batch.vcu.conditions import Condition, compose, control, extension, repaint, unseen
from vace_batch.vcu.controls.videos import SIMPLE, simple_control
from vace_batch.vcu.references import prepare_references
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU, Mask, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """The fields of a VCU other than pixels."""

    window_id: str
    sampling: ResolvedSampling
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowArrays:
    """The arrays of one window before its task is applied.

    `references` are whole pictures, uint8 (h, w, 3) of any size, in the order of the job's reference_uris;
    `reference_masks` are their masks, (h, w). `controls` holds, by name, the control videos that are not in
    `controls.videos.SIMPLE`, shaped like the frames. `known_T` marks the frames that an extension starts from.
    """

    frames_THWC: Pixels
    mask_THW: Mask
    references: Sequence[Pixels] = ()
    reference_masks: Sequence[Pixels | None] | None = None
    controls: Mapping[str, Pixels] = field(default_factory=dict)
    known_T: NDArray[np.bool_] | None = None

    @property
    def size(self) -> Size:
        return Size(self.frames_THWC.shape[2], self.frames_THWC.shape[1])

    @property
    def masks_of_references(self) -> Sequence[Pixels | None]:
        """A mask for each reference; None for a reference that is used whole."""
        return [None] * len(self.references) if self.reference_masks is None else self.reference_masks

    @property
    def known_frames_T(self) -> NDArray[np.bool_]:
        """The frames that an extension starts from; all of them where the window names none."""
        return np.ones(len(self.frames_THWC), np.bool_) if self.known_T is None else self.known_T


def make_vcu(job: Job, arrays: WindowArrays, *, window_id: str, seed: int, sampling: ResolvedSampling) -> VCU:
    """Build the VCU of one window of `job`.

    Raises:
        ClipError: a reference cannot be used.
        ValueError: the arrays do not fit together, or the task is unknown.
    """
    negative = default_negative_prompt(job.task) if job.negative_prompt is None else job.negative_prompt
    settings = WindowSettings(
        window_id=window_id, sampling=sampling, prompt=job.prompt, negative_prompt=negative, seed=seed
    )
    canvases = prepare_references(job, arrays.references, arrays.masks_of_references, arrays.size)
    drawn = [
        simple_control(name, arrays.frames_THWC) if name in SIMPLE else arrays.controls[name] for name in job.controls
    ]
    return _apply(job, arrays, settings, drawn, canvases)


def _apply(
    job: Job,
    arrays: WindowArrays,
    settings: WindowSettings,
    drawn: Sequence[Pixels],
    canvases: Sequence[Pixels],
) -> VCU:
    """Apply the job's task to a window, with the drawn controls and the references on their canvases."""
    frames_THWC, mask_THW = arrays.frames_THWC, arrays.mask_THW
    match job.task:
        case "removal":
            return removal(frames_THWC, mask_THW, settings)
        case "inpainting":
            return inpainting(frames_THWC, mask_THW, settings, references=canvases)
        case "restyle":
            return restyle(frames_THWC, mask_THW, settings, controls=drawn, references=canvases)
        case "t2v":
            return t2v(frames_THWC, settings)
        case "r2v":
            return r2v(frames_THWC, settings, references=canvases)
        case "outpainting":
            return outpainting(frames_THWC, ~mask_THW, settings)
        case "extension":
            return extended(frames_THWC, arrays.known_frames_T, settings)
        case "composition":
            return composition(job.processes, arrays, settings, controls=drawn, references=canvases)
    raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {job.task!r}")


def removal(frames_THWC: Pixels, mask_THW: Mask, settings: WindowSettings) -> VCU:
    """Fill the mask from its surroundings: pixels are neutral under the mask, and references would only be noise.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return inpainting(frames_THWC, mask_THW, settings)


def inpainting(
    frames_THWC: Pixels, mask_THW: Mask, settings: WindowSettings, *, references: Sequence[Pixels] = ()
) -> VCU:
    """Fill the mask by the prompt and the references; pixels are neutral under the mask.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return _vcu(repaint(frames_THWC, mask_THW), settings, references)


def restyle(
    frames_THWC: Pixels,
    mask_THW: Mask | None,
    settings: WindowSettings,
    *,
    controls: Sequence[Pixels],
    references: Sequence[Pixels] = (),
) -> VCU:
    """Redraw along control videos: everywhere without a mask, else under the mask with the source known elsewhere.

    Of two controls the second rules under the mask and the first elsewhere, and all of the picture is drawn anew.

    Raises:
        ValueError: the arrays do not fit together, or there is no control.
    """
    if not controls:
        raise ValueError("restyle: expected a control video, got none")
    if len(controls) > 1:
        return _vcu(_steered(controls, mask_THW), settings, references)
    steered = control(controls[0])
    return _vcu(steered if mask_THW is None else compose(repaint(frames_THWC, mask_THW), steered), settings, references)


def t2v(frames_THWC: Pixels, settings: WindowSettings) -> VCU:
    """Generate all from the prompt; only the shape of the frames is used.

    Raises:
        ValueError: the frames are no window.
    """
    return _vcu(unseen(frames_THWC), settings)


def r2v(frames_THWC: Pixels, settings: WindowSettings, *, references: Sequence[Pixels]) -> VCU:
    """Generate all from the prompt and 1..3 references.

    Raises:
        ValueError: too few or too many references, or the arrays do not fit together.
    """
    if not 1 <= len(references) <= MAX_R2V_REFERENCES:
        raise ValueError(f"r2v: expected 1..{MAX_R2V_REFERENCES} references, got {len(references)}")
    return _vcu(unseen(frames_THWC), settings, references)


def outpainting(frames_THWC: Pixels, inside_THW: Mask, settings: WindowSettings) -> VCU:
    """Grow the picture: the source is known inside, the canvas is neutral outside.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return _vcu(repaint(frames_THWC, ~inside_THW), settings)


def extended(frames_THWC: Pixels, known_T: NDArray[np.bool_], settings: WindowSettings) -> VCU:
    """Continue, lead up to or bridge known frames; all other frames are neutral.

    Raises:
        ValueError: no frame is known, or the arrays do not fit together.
    """
    return _vcu(extension(frames_THWC, known_T), settings)


def composition(
    kinds: Sequence[str],
    arrays: WindowArrays,
    settings: WindowSettings,
    *,
    controls: Sequence[Pixels] = (),
    references: Sequence[Pixels] = (),
) -> VCU:
    """Combine up to two processes over the same frames by `compose`; without a process every pixel is generated.

    Raises:
        ValueError: a control is missing, no frame is known, or the arrays do not fit together.
    """
    if tuple(kinds) == ("control", "control"):
        return _vcu(_steered(controls, arrays.mask_THW), settings, references)

    def made(kind: str) -> Condition:
        match kind:
            case "repaint":
                return repaint(arrays.frames_THWC, arrays.mask_THW)
            case "extension":
                return extension(arrays.frames_THWC, arrays.known_frames_T)
        if len(controls) != 1:
            raise ValueError(f"composition: expected one control video, got {len(controls)}")
        return control(controls[0])

    parts = [made(kind) for kind in kinds] or [unseen(arrays.frames_THWC)]
    return _vcu(reduce(compose, parts), settings, references)


def _steered(controls: Sequence[Pixels], mask_THW: Mask | None) -> Condition:
    if len(controls) != 2:
        raise ValueError(f"control + control: expected two control videos, got {len(controls)}")
    return compose(control(controls[0]), control(controls[1], mask_THW))


def _vcu(condition: Condition, settings: WindowSettings, references: Sequence[Pixels] = ()) -> VCU:
    return VCU(
        window_id=settings.window_id,
        frames_THWC=condition.frames_THWC,
        mask_THW=condition.mask_THW,
        neutral_THW=condition.neutral_THW,
        references=tuple(references),
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        seed=settings.seed,
        sampling=settings.sampling,
    )
