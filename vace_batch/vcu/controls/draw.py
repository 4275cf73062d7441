"""Draw control pictures without a model: gray, scribble, optical flow, layout. H rows, W columns, C = RGB.

No picture is normalised by its own frame: a scale that changes from frame to frame flickers.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size
from vace_batch.vcu.unit import Pixels

Flow = NDArray[np.float32]

_WHITE = 255
_LINE_SIGMA_PX = 1.0
_LINE_GAIN = 18.0

FLOW_PX = 512
"""Longer side at which optical flow is measured."""

_LAYOUT_LINE_SHARE = 0.006
_GOLDEN = 0.618034


def gray(frame_HWC: Pixels) -> Pixels:
    """Draw a frame's brightness as three equal channels."""
    return _three(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY))


def scribble(frame_HWC: Pixels) -> Pixels:
    """Draw dark lines on white along edges of brightness: the dark side of a difference of Gaussians.

    The contrast of the lines is fixed.
    """
    light = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    fine = cv2.GaussianBlur(light, (0, 0), _LINE_SIGMA_PX)
    coarse = cv2.GaussianBlur(light, (0, 0), 2 * _LINE_SIGMA_PX)
    ink = np.clip(_LINE_GAIN * (coarse - fine) - 0.15, 0, 1)
    return _three(np.asarray((1 - ink) * _WHITE + 0.5, np.uint8))


def flow_of(before_HWC: Pixels, after_HWC: Pixels) -> Flow:
    """Measure motion from one frame to the next: (h, w, 2) of (x, y), in hundredths of the picture's longer side.

    OpenCV's DIS at a longer side of FLOW_PX at most: equal for all crops of a picture, and in units that do not
    depend on its size.
    """
    small = [cv2.cvtColor(at_most(frame, FLOW_PX), cv2.COLOR_RGB2GRAY) for frame in (before_HWC, after_HWC)]
    if min(small[0].shape) < 16:  # DIS needs a patch and its surroundings
        return np.zeros((*small[0].shape, 2), np.float32)
    flow = _dis().calc(*small, None)
    return np.asarray(flow * (100 / max(small[0].shape)), np.float32)


def flow_picture(flow_HW2: Flow, fastest: float) -> Pixels:
    """Draw motion on the Middlebury colour wheel: white stands still, `fastest` has full colour."""
    import torch
    from torchvision.utils import flow_to_image

    speed = np.linalg.norm(flow_HW2, axis=-1, keepdims=True)
    clipped = flow_HW2 * np.minimum(1, fastest / np.maximum(speed, 1e-9))
    # torchvision scales by the fastest pixel of the picture: one more row holds exactly that speed.
    ruler = np.zeros((1, *clipped.shape[1:]), np.float32)
    ruler[0, 0, 0] = fastest
    tall = np.concatenate([clipped, ruler]).astype(np.float32)
    drawn = flow_to_image(torch.from_numpy(tall.transpose(2, 0, 1).copy()))
    return np.ascontiguousarray(drawn.numpy().transpose(1, 2, 0)[:-1])


def layout(size: Size, boxes: Iterable[tuple[int, Box]]) -> Pixels:
    """Draw outlines of (object number, box) on white; an object keeps its colour."""
    canvas = np.full((size.height, size.width, 3), _WHITE, np.uint8)
    line = max(2, round(_LAYOUT_LINE_SHARE * max(size.width, size.height)))
    for number, box in sorted(boxes, key=lambda item: item[0]):
        cv2.rectangle(canvas, (box.x, box.y), (box.right - 1, box.bottom - 1), object_colour(number), line)
    return canvas


def object_colour(number: int) -> tuple[int, int, int]:
    """Return an object's saturated colour; the hues of consecutive numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 1.0, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def at_most(frame_HWC: Pixels, longest_px: int) -> Pixels:
    """Shrink a frame whose longer side is above `longest_px`."""
    scale = longest_px / max(frame_HWC.shape[:2])
    if scale >= 1:
        return frame_HWC
    size = [max(1, round(side * scale)) for side in (frame_HWC.shape[1], frame_HWC.shape[0])]
    return np.asarray(cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def cropped(picture: Pixels, whole: Size, box: Box, size: Size) -> Pixels:
    """Crop `box` (px of a frame of size `whole`) out of a picture of the whole frame at any scale; resize to `size`."""
    height, width = picture.shape[:2]
    step_x = width / whole.width * box.width / size.width
    step_y = height / whole.height * box.height / size.height
    left = box.x * width / whole.width
    top = box.y * height / whole.height
    # Samples sit in the middle of their pixels.
    into = np.array([[step_x, 0, left + step_x / 2 - 0.5], [0, step_y, top + step_y / 2 - 0.5]])
    shrink = max(step_x, step_y)
    if shrink > 1:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), shrink / 2), np.uint8)
    drawn = cv2.warpAffine(
        picture,
        into,
        (size.width, size.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(drawn, np.uint8)


def scaled(values_HW: NDArray[np.float32], low: float, high: float) -> Pixels:
    """Draw `values_HW` as gray: `low` black, `high` white."""
    levels = np.clip((values_HW - low) / max(high - low, 1e-9), 0, 1) * _WHITE
    return _three(np.rint(levels).astype(np.uint8))


def _three(one: NDArray[np.generic]) -> Pixels:
    return np.asarray(np.repeat(np.asarray(one)[..., None], 3, axis=-1), np.uint8)


@cache
def _dis() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
