"""Make training samples of all tasks: a clip, and a VCU that hides, draws or refers to a part of the clip.

Axes: T frames, H rows, W columns, C channels (RGB), uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size
from vace_batch.vace.training.styles import STYLES, prompt_of, styled
from vace_batch.vcu.controls.videos import simple_control
from vace_batch.vcu.references import fit_reference
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.tasks import WindowSettings, extended, inpainting, outpainting, removal, restyle
from vace_batch.vcu.unit import VCU, Mask, Pixels

TASKS = {"removal": 0.6, "control": 0.24, "outpainting": 0.06, "extension": 0.04, "reference": 0.06}
"""How often each task is drawn."""

_THIN, _WRITTEN, _SECOND = 0.25, 0.1, 0.25
"""How often an object is a wire or a pole, else a line of text, and how often there are two."""

_SAMPLING = {
    rule: ResolvedSampling(num_inference_steps=1, guidance_scale=1.0, flow_shift=3.0, mask_rule=rule)
    for rule in ("nearest", "max4")
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A VCU, and the frames `target_THWC` that the model should generate from it."""

    task: str
    target_THWC: Pixels
    vcu: VCU


def sample_of(task: str, frames: Pixels, generator: np.random.Generator) -> Sample:
    """Make a sample of `task` from clean `frames` alone.

    Raises:
        ValueError: there is no such task, or the frames are no window.
    """
    style = str(generator.choice(list(STYLES))) if generator.random() < _STYLED[task] else None
    settings = WindowSettings(
        window_id="sample",
        sampling=_SAMPLING["max4" if task == "removal" else "nearest"],
        prompt=prompt_of(style, generator),
    )
    target = styled(frames, style)
    vcu = _vcu_of(task, frames, target, settings, generator)
    return Sample(task=task, target_THWC=target, vcu=vcu)


def _vcu_of(task: str, frames: Pixels, target: Pixels, settings: WindowSettings, generator: np.random.Generator) -> VCU:
    """Make the VCU from which `task` generates `target`, the styled `frames`."""
    num_frames, height, width = frames.shape[:3]
    match task:
        case "removal":
            return removal(target, passing_mask(num_frames, height, width, generator), settings)
        case "control":
            drawn = simple_control("gray" if generator.random() < 0.7 else "scribble", frames)
            return restyle(frames, None, settings, controls=[drawn])
        case "outpainting":
            return outpainting(target, np.repeat(_inside(height, width, generator)[None], num_frames, 0), settings)
        case "extension":
            known = np.arange(num_frames) < generator.integers(1, num_frames + 1)
            return extended(target, known if generator.random() < 0.5 else known[::-1].copy(), settings)
        case "reference":
            mask = passing_mask(num_frames, height, width, generator)
            rows, columns = np.nonzero(mask[0])
            box = Box(*(int(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)))
            picture = fit_reference(target[0], box, Size(width, height))
            return inpainting(target, mask, settings, references=[picture])
    raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")


_STYLED = {"removal": 0.0, "control": 0.75, "outpainting": 0.0, "extension": 0.0, "reference": 0.0}


def passing_mask(num_frames: int, height: int, width: int, generator: np.random.Generator) -> Mask:
    """Draw the mask, (T, H, W), of one or two objects that rest or move; never empty in the first frame."""
    mask = _object(num_frames, height, width, generator)
    return mask | _object(num_frames, height, width, generator) if generator.random() < _SECOND else mask


def _object(num_frames: int, height: int, width: int, generator: np.random.Generator) -> Mask:
    moves = generator.random() < 0.55
    speed = generator.normal(0, 1, 2) * (width, height) / num_frames * 0.5 if moves else np.zeros(2)
    if generator.random() < _THIN:
        return _wire(num_frames, height, width, speed, generator)
    share = generator.uniform(0.08, 0.62, 2)
    if generator.random() < _WRITTEN:
        share = np.array([generator.uniform(0.3, 1.0), generator.uniform(0.05, 0.15)])
    axes = np.maximum(share * (width, height) / 2, 6)
    start = np.array([generator.uniform(axes[0], width - axes[0]), generator.uniform(axes[1], height - axes[1])])
    shape = _shape(generator)
    canvas = np.asarray(cv2.resize(shape, (max(3, int(2 * axes[0])), max(3, int(2 * axes[1])))), np.uint8)
    frames = [_place(canvas, start + speed * index, height, width) for index in range(num_frames)]
    return np.stack(frames) > 127


def _wire(num_frames: int, height: int, width: int, speed: NDArray[np.float64], generator: np.random.Generator) -> Mask:
    """Draw the mask of a straight line at any angle, about a token thick, as the pipeline's thinnest masks."""
    thickness = int(generator.integers(10, 25))
    middle = generator.uniform(0.1, 0.9, 2) * (width, height)
    angle = generator.choice([0.0, np.pi / 2]) if generator.random() < 0.3 else generator.uniform(0, np.pi)
    reach = generator.uniform(0.3, 1.4) * max(width, height) * np.array([np.cos(angle), np.sin(angle)]) / 2
    mask = np.zeros((num_frames, height, width), np.uint8)
    for index, frame in enumerate(mask):
        ends = middle + speed * 0.3 * index + np.stack([-reach, reach])
        first, last = ([int(value) for value in end] for end in ends)
        cv2.line(frame, first, last, 1, thickness)
    return mask > 0


def _shape(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a unit shape, 64x64: a box, an ellipse or a lump of ellipses."""
    canvas = np.zeros((64, 64), np.uint8)
    kind = generator.random()
    if kind < 0.4:
        canvas[:] = 255
    elif kind < 0.6:
        cv2.ellipse(canvas, (32, 32), (31, 31), 0, 0, 360, 255, -1)
    else:
        for _ in range(4):
            centre = tuple(int(v) for v in generator.integers(18, 46, 2))
            axes = tuple(int(v) for v in generator.integers(10, 20, 2))
            cv2.ellipse(canvas, centre, axes, float(generator.uniform(0, 180)), 0, 360, 255, -1)
    return canvas


def _place(shape: NDArray[np.uint8], centre: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = shape.shape
    matrix = np.array([[1, 0, centre[0] - columns / 2], [0, 1, centre[1] - rows / 2]], np.float32)
    return np.asarray(cv2.warpAffine(shape, matrix, (width, height), flags=cv2.INTER_NEAREST), np.uint8)


def _inside(height: int, width: int, generator: np.random.Generator) -> Mask:
    """Draw the known part of an outpainting's canvas, (H, W)."""
    inside = np.ones((height, width), np.bool_)
    cut = int(generator.uniform(0.15, 0.35) * min(height, width))
    sides = (np.s_[:cut, :], np.s_[-cut:, :], np.s_[:, :cut], np.s_[:, -cut:])
    for side in generator.permutation(4)[: generator.integers(1, 3)]:
        inside[sides[side]] = False
    return inside
