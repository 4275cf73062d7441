"""Combine VACE's processes (repaint, extension, control) into the frames and masks of one window.

T frames, H rows, W columns, C = RGB. Formulas: VACE's composition annotator (vace/annotators/composition.py). Masks are
binary, so its sums of products are selections here, and neutral pixels stay neutral exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vace_batch.manifest.choices import PROCESSES, Process
from vace_batch.vcu.unit import Mask, Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Condition:
    """One process over a window: its kind (of PROCESSES), its frames, its generated and its neutral pixels.

    frames_THWC uint8; mask_THW bool, True = generate; neutral_THW bool, True = exactly 0.0 once normalised.
    """

    kind: Process
    frames_THWC: Pixels
    mask_THW: Mask
    neutral_THW: Mask

    def __post_init__(self) -> None:
        if self.kind not in PROCESSES:
            raise ValueError(f"process: expected one of {', '.join(PROCESSES)}, got {self.kind!r}")
        for name, mask in (("mask", self.mask_THW), ("neutral", self.neutral_THW)):
            if mask.dtype != np.bool_ or mask.shape != self.frames_THWC.shape[:3]:
                expected = f"bool {self.frames_THWC.shape[:3]} like the frames"
                raise ValueError(f"{self.kind} {name}: expected {expected}, got {mask.dtype} {mask.shape}")


def repaint(frames_THWC: Pixels, mask_THW: Mask) -> Condition:
    """Repaint the mask (inpainting, outpainting): frames are known outside the mask and neutral under it.

    Raises:
        ValueError: the arrays do not fit together.
    """
    return Condition(kind="repaint", frames_THWC=frames_THWC, mask_THW=mask_THW, neutral_THW=mask_THW)


def unseen(frames_THWC: Pixels) -> Condition:
    """Generate every pixel of a window shaped like the frames: text and references alone steer it."""
    return repaint(frames_THWC, np.ones(frames_THWC.shape[:3], np.bool_))


def extension(frames_THWC: Pixels, known_T: NDArray[np.bool_]) -> Condition:
    """Extend a clip: frames are known where `known_T` (T) is true, and all other frames are generated.

    Raises:
        ValueError: `known_T` is not one bool a frame, or knows no frame at all.
    """
    if known_T.shape != frames_THWC.shape[:1] or known_T.dtype != np.bool_ or not known_T.any():
        expected = f"bool ({len(frames_THWC)},) with a known frame"
        raise ValueError(f"extension: expected {expected}, got {known_T.dtype} {known_T.shape}, {known_T.sum()} known")
    new_THW = np.broadcast_to(~known_T[:, None, None], frames_THWC.shape[:3]).copy()
    return Condition(kind="extension", frames_THWC=frames_THWC, mask_THW=new_THW, neutral_THW=new_THW)


def control(control_THWC: Pixels, mask_THW: Mask | None = None) -> Condition:
    """Steer generation by a control video: everywhere, or only where `mask_THW` is true (of two combined controls).

    Raises:
        ValueError: the arrays do not fit together.
    """
    mask = np.ones(control_THWC.shape[:3], np.bool_) if mask_THW is None else mask_THW
    return Condition(kind="control", frames_THWC=control_THWC, mask_THW=mask, neutral_THW=np.zeros_like(mask))


def compose(first: Condition, second: Condition) -> Condition:
    """Combine two processes over one window, with frames f1, f2 and masks m1, m2.

    extension + X:                                                 frames f2*m1 + f1*(1-m1), mask m1*m2
    repaint + control, either way, m1 the repaint's:               frames f1*(1-m1) + f2*m1, mask m1
    X + extension, repaint + repaint, control + control:           frames f1*(1-m2) + f2*m2, mask m1*(1-m2) + m2*m2

    Raises:
        ValueError: they are of different shapes.
    """
    if first.frames_THWC.shape != second.frames_THWC.shape:
        got = f"{first.frames_THWC.shape} and {second.frames_THWC.shape}"
        raise ValueError(f"{first.kind} + {second.kind}: expected frames of one shape, got {got}")
    kinds = (first.kind, second.kind)
    if kinds == ("control", "repaint"):
        first, second, kinds = second, first, ("repaint", "control")
    if first.kind == "extension":
        return _selected(first, second, takes_second=first.mask_THW, mask_THW=first.mask_THW & second.mask_THW)
    if kinds == ("repaint", "control"):
        return _selected(first, second, takes_second=first.mask_THW, mask_THW=first.mask_THW)
    return _selected(first, second, takes_second=second.mask_THW, mask_THW=first.mask_THW | second.mask_THW)


def _selected(first: Condition, second: Condition, *, takes_second: Mask, mask_THW: Mask) -> Condition:
    return Condition(
        kind=second.kind if second.kind == "extension" else first.kind,
        frames_THWC=np.where(takes_second[..., None], second.frames_THWC, first.frames_THWC),
        mask_THW=mask_THW,
        neutral_THW=np.where(takes_second, second.neutral_THW, first.neutral_THW),
    )
