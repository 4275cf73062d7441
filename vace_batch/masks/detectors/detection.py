"""Detections of an object: box, class name, and a mask that is made inside its box."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask

DEFAULT_CONFIDENCE = 0.25
"""Least confidence of an object on its best frame."""

LEAST_CONFIDENCE = 0.1
"""Least confidence of an object on its other frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One detected object: `box` in display pixels, rounded outward; `mask` from segmentation weights, else None."""

    box: Box
    label: str
    confidence: float
    mask: FrameMask | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLogits:
    """A segmentation head's output, from which a mask is made inside its box only.

    Scaling N masks to a 1080p frame first (`retina_masks`) costs 314 ms a frame. `gain` and `pad` map display pixels
    (x, y) to prototype pixels.
    """

    prototypes: npt.NDArray[np.float32]
    """(C,h,w)"""
    coefficients: npt.NDArray[np.float32]
    """(N,C)"""
    gain: tuple[float, float]
    pad: tuple[float, float]

    @staticmethod
    def of(
        prototypes: npt.NDArray[np.float32],
        coefficients: npt.NDArray[np.float32],
        network: tuple[int, int],
        display: tuple[int, int],
    ) -> MaskLogits:
        """Compute `gain` and `pad` of the letterbox from `display` (H,W) to `network` (H,W) and the prototypes' coarser
        grid."""
        scale = min(network[0] / display[0], network[1] / display[1])
        gains: list[float] = []
        pads: list[float] = []
        for axis in (1, 0):
            inner = max(round(display[axis] * scale), 1)
            grid = prototypes.shape[axis + 1] / network[axis]
            gains.append(inner / display[axis] * grid)
            pads.append(round((network[axis] - inner) / 2 - 0.1) * grid)
        return MaskLogits(
            prototypes=prototypes, coefficients=coefficients, gain=(gains[0], gains[1]), pad=(pads[0], pads[1])
        )

    def bits(self, number: int, box: Box) -> npt.NDArray[np.bool_]:
        """Return the mask of object `number` inside `box` (display pixels), (h,w) bool."""
        depth, rows, columns = self.prototypes.shape
        gain_x, gain_y = self.gain
        pad_x, pad_y = self.pad
        # One pixel of margin for the interpolation, and one because samples lie in the middle of their pixels.
        left = min(max(math.floor(box.x * gain_x + pad_x) - 2, 0), columns - 1)
        top = min(max(math.floor(box.y * gain_y + pad_y) - 2, 0), rows - 1)
        right = min(math.ceil(box.right * gain_x + pad_x) + 2, columns)
        bottom = min(math.ceil(box.bottom * gain_y + pad_y) + 2, rows)
        part = self.prototypes[:, top:bottom, left:right]
        logits = (self.coefficients[number] @ part.reshape(depth, -1)).reshape(part.shape[1:])
        offset_x = (box.x + 0.5) * gain_x + pad_x - 0.5 - left
        offset_y = (box.y + 0.5) * gain_y + pad_y - 0.5 - top
        scaled = cv2.warpAffine(
            logits,
            np.array([[gain_x, 0, offset_x], [0, gain_y, offset_y]]),
            (box.width, box.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(scaled > 0, np.bool_)


def class_numbers(targets: Sequence[str], classes: Mapping[int, str], weights: str) -> list[int]:
    """Look up the numbers of `targets` among the `classes` of the file `weights`, without regard to case and outer
    blanks.

    Raises:
        ClipError: `unknown_class`, with the nearest names that the weights know.
    """
    known: dict[str, list[int]] = {}
    for number, name in classes.items():
        known.setdefault(fold_name(name), []).append(number)
    unknown = [target for target in targets if fold_name(target) not in known]
    if unknown:
        hints = "; ".join(_near(target, list(classes.values())) for target in unknown)
        raise ClipError("unknown_class", f"targets: {Path(weights).name} does not know {hints}")
    return sorted({number for target in targets for number in known[fold_name(target)]})


def one_line(error: BaseException) -> str:
    """Format an exception for a row: its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def outward(edges: Sequence[float], size: Size) -> Box | None:
    """Round left, top, right, bottom outward to a pixel box in a frame of `size`; None outside the frame."""
    left = max(math.floor(edges[0]), 0)
    top = max(math.floor(edges[1]), 0)
    right = min(math.ceil(edges[2]), size.width)
    bottom = min(math.ceil(edges[3]), size.height)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def fold_name(name: str) -> str:
    """Normalize a class name for comparison: without case, outer and doubled blanks."""
    return " ".join(name.casefold().split())


def _near(target: str, names: Sequence[str]) -> str:
    """Format a target with the nearest class names."""
    by_folded = {fold_name(name): name for name in names}
    close = difflib.get_close_matches(fold_name(target), by_folded, n=3, cutoff=0.5)
    close += [name for name in by_folded if fold_name(target) in name and name not in close][:3]
    if close:
        return f"{target!r} (near: {', '.join(by_folded[name] for name in close)})"
    return f"{target!r} (it knows {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
