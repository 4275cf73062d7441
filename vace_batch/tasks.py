"""One function a task: aligned pictures and masks in, a VCU out. After this nothing knows the task.

A task says three things of each pixel: what the frames show there, whether it is generated, whether it says anything.
To add a task, add its function and its line in `make_vcu`. Formulas of combined tasks: VACE's composition annotator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.job import BoxKey, Job
from vace_batch.profiles import default_negative_prompt
from vace_batch.vcu import VCU, Mask, Pixels, ResolvedSampling

_WHITE = 255

_LINE_SIGMA_PX = 1.0
_LINE_GAIN = 18.0
"""Contrast of a scribble's lines. Fixed, never normalised by the frame: lines that rescale themselves flicker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """What a VCU carries beside pixels."""

    window_id: str
    sampling: ResolvedSampling
    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0


def make_vcu(
    job: Job,
    *,
    window_id: str,
    frames_THWC: Pixels,
    mask_THW: Mask,
    references: Sequence[Pixels],
    seed: int,
    sampling: ResolvedSampling,
) -> VCU:
    """The VCU of one window of `job`.

    `references` are whole pictures, uint8 (h, w, 3) of any size, in the order of the job's reference_uris.

    Raises:
        ClipError: a reference box lies outside its picture.
        ValueError: the arrays do not fit together, or the task or the control is unknown.
    """
    negative = default_negative_prompt(job.task) if job.negative_prompt is None else job.negative_prompt
    settings = WindowSettings(
        window_id=window_id, sampling=sampling, prompt=job.prompt, negative_prompt=negative, seed=seed
    )
    size = Size(frames_THWC.shape[2], frames_THWC.shape[1])
    keys = job.reference_boxes or (None,) * len(references)
    canvases = [
        fit_reference(picture, None if key is None else _reference_box(key, picture, number), size)
        for number, (picture, key) in enumerate(zip(references, keys, strict=True))
    ]
    match job.task:
        case "removal":
            return removal(frames_THWC, mask_THW, settings)
        case "inpainting":
            return inpainting(frames_THWC, mask_THW, settings, references=canvases)
        case "restyle":
            return restyle(frames_THWC, mask_THW, settings, control=job.control or "plain", references=canvases)
    raise ValueError(f"task: expected removal, inpainting or restyle, got {job.task!r}")


def removal(frames_THWC: Pixels, mask_THW: Mask, settings: WindowSettings) -> VCU:
    """Fill the mask from its surroundings: neutral under the mask and no reference, which would only be noise here.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return inpainting(frames_THWC, mask_THW, settings)


def inpainting(
    frames_THWC: Pixels, mask_THW: Mask, settings: WindowSettings, *, references: Sequence[Pixels] = ()
) -> VCU:
    """Fill the mask with what the prompt and the references say: neutral under the mask.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return _vcu(frames_THWC, mask_THW, mask_THW, settings, references)


def restyle(
    frames_THWC: Pixels,
    mask_THW: Mask | None,
    settings: WindowSettings,
    *,
    control: str,
    references: Sequence[Pixels] = (),
) -> VCU:
    """Draw anew along a control made from the frames: everywhere without a mask, else under it (repaint + control).

    With mask m, source f1 and control f2: frames f1*(1-m) + f2*m, mask m. `control` is gray, scribble or plain (the
    frames themselves).

    Raises:
        ValueError: the arrays do not fit together, or the control is unknown.
    """
    if control not in CONTROLS:
        raise ValueError(f"control: expected one of {', '.join(CONTROLS)}, got {control!r}")
    if mask_THW is None:
        mask_THW = np.ones(frames_THWC.shape[:3], np.bool_)
    drawn_THWC = np.stack([CONTROLS[control](frame) for frame in frames_THWC])
    steered_THWC = np.where(mask_THW[..., None], drawn_THWC, frames_THWC)
    return _vcu(steered_THWC, mask_THW, np.zeros_like(mask_THW), settings, references)


def fit_reference(picture: Pixels, box: Box | None, size: Size) -> Pixels:
    """A reference, uint8 (h, w, 3), cropped to `box` and enlarged to fit a white canvas of `size`, aspect kept.

    The crop gives the subject as many tokens as there are and takes its position away.
    """
    subject = picture if box is None else picture[box.slices]
    height, width = subject.shape[:2]
    scale = min(size.width / width, size.height / height)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    shrinks = scale < 1
    resized = cv2.resize(subject, fitted, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    canvas = np.full((size.height, size.width, 3), _WHITE, np.uint8)
    top, left = (size.height - fitted[1]) // 2, (size.width - fitted[0]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = resized
    return canvas


def _vcu(
    frames_THWC: Pixels, mask_THW: Mask, neutral_THW: Mask, settings: WindowSettings, references: Sequence[Pixels]
) -> VCU:
    return VCU(
        window_id=settings.window_id,
        frames_THWC=frames_THWC,
        mask_THW=mask_THW,
        neutral_THW=neutral_THW,
        references=tuple(references),
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        seed=settings.seed,
        sampling=settings.sampling,
    )


def _reference_box(key: BoxKey, picture: Pixels, number: int) -> Box:
    height, width = picture.shape[:2]
    left, top = round(key.x), round(key.y)
    box = Box(left, top, max(1, round(key.width)), max(1, round(key.height))).clip(Size(width, height))
    if box is None:
        raise ClipError(
            "reference_box_outside",
            f"reference_boxes[{number}]: expected a box in the {width}x{height} picture, got x {key.x}, y {key.y}",
        )
    return box


def _gray(frame: Pixels) -> Pixels:
    return _three(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


def _scribble(frame: Pixels) -> Pixels:
    """Dark lines on white where brightness has an edge: a difference of Gaussians, its dark side drawn."""
    light = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    fine = cv2.GaussianBlur(light, (0, 0), _LINE_SIGMA_PX)
    coarse = cv2.GaussianBlur(light, (0, 0), 2 * _LINE_SIGMA_PX)
    ink = np.clip(_LINE_GAIN * (coarse - fine) - 0.15, 0, 1)
    return _three(np.asarray((1 - ink) * _WHITE + 0.5, np.uint8))


def _plain(frame: Pixels) -> Pixels:
    return frame


def _three(gray: NDArray[np.generic]) -> Pixels:
    return np.asarray(np.repeat(gray[..., None], 3, axis=-1), np.uint8)


CONTROLS: dict[str, Callable[[Pixels], Pixels]] = {"gray": _gray, "scribble": _scribble, "plain": _plain}
