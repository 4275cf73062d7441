"""Estimate depth and pose by ultralytics weights (yolo26n-depth.pt, yolo26n-pose.pt and kin), and draw poses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.detectors.detection import one_line
from vace_batch.masks.detectors.yolo import UNREADABLE_WEIGHTS, local_path
from vace_batch.vcu.unit import Pixels

POSE_CONFIDENCE = 0.3
_NEAREST_M = 0.1

# OpenPose's 18 points out of COCO's 17: nose, neck (between the shoulders), right and left arm, right and left leg,
# eyes, ears; its limbs; its colours. VACE was trained on drawings of this kind.
_FROM_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
WHOLE_BODY, _FACE = 133, slice(23, 91)
"""Points of COCO-WholeBody: COCO's 17, then feet, face and hands."""

_STICK_SHARE, _DOT_SHARE = 0.008, 0.003
_LIMB_LIGHT = 0.6


class Estimator:
    """Loaded depth or pose weights; keep one a process."""

    def __init__(self, model: Any, device: str) -> None:
        self._model, self._device = model, device

    @classmethod
    def load(cls, weights: str, task: str, *, device: str = "cpu") -> Estimator:
        """Load a local file of weights for `task` (depth or pose).

        Raises:
            ClipError: `weights_not_found`, `bad_weights`, `wrong_weights` (another task).
            UsageError: ultralytics was imported before this package could make it load safely.
        """
        path = local_path(weights)
        from ultralytics import YOLO

        try:
            model = YOLO(path)
            actual_task = model.task
        except UNREADABLE_WEIGHTS as error:
            raise ClipError("bad_weights", f"weights {weights} cannot be loaded: {one_line(error)}") from error
        if actual_task != task:
            raise ClipError("wrong_weights", f"weights {weights}: expected a {task} model, got {actual_task}")
        return cls(model, device)

    def nearness(self, rgb_HWC: Pixels) -> NDArray[np.float32]:
        """Estimate 1 / distance in 1/m, (H, W): near is large, as in the depth pictures that VACE was trained on."""
        depth = self._predict(rgb_HWC).depth.data
        return np.asarray(1 / np.maximum(depth.float().cpu().numpy(), _NEAREST_M), np.float32)

    def people(self, rgb_HWC: Pixels) -> NDArray[np.float32]:
        """Find the key points of each person: (N, 17, 3) or more of (x, y, confidence), in px, COCO's first."""
        points = self._predict(rgb_HWC).keypoints
        if points is None or not len(points.data):
            return np.zeros((0, 17, 3), np.float32)
        return np.asarray(points.data.float().cpu().numpy(), np.float32)

    @property
    def sees_faces(self) -> bool:
        """Tell whether the weights find all points of COCO-WholeBody, faces included."""
        return int(self._model.model.model[-1].kpt_shape[0]) == WHOLE_BODY

    def _predict(self, rgb_HWC: Pixels) -> Any:
        bgr = np.ascontiguousarray(rgb_HWC[..., ::-1])
        return self._model.predict(bgr, device=self._device, verbose=False, save=False)[0]


@lru_cache(maxsize=2)
def loaded(path: str, stamp: int, task: str, device: str) -> Estimator:
    """Load an estimator once for each state (`stamp`) of its file."""
    return Estimator.load(path, task, device=device)


def load(path: str, task: str, device: str) -> Estimator:
    """Return the estimator of a weights file, kept in memory while the file stays the same.

    Raises:
        ClipError: as `Estimator.load`.
    """
    return loaded(path, os.stat(path).st_mtime_ns, task, device)


def skeletons(size: Size, people_NK3: NDArray[np.float32], *, faces: bool = False) -> Pixels:
    """Draw bodies on black as OpenPose does; with `faces`, also each face's 68 points as white dots, as VACE does.

    Points: COCO's 17, for faces all of COCO-WholeBody.
    """
    canvas = np.zeros((size.height, size.width, 3), np.uint8)
    stick = max(2, round(_STICK_SHARE * max(size.width, size.height)))
    dot = max(1, round(_DOT_SHARE * max(size.width, size.height)))
    for person in people_NK3:
        _draw_body(canvas, person, stick)
    for x, y, confidence in people_NK3[:, _FACE].reshape(-1, 3) if faces else ():
        if confidence >= POSE_CONFIDENCE:
            cv2.circle(canvas, (round(float(x)), round(float(y))), dot, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
    return canvas


def _draw_body(canvas: Pixels, person: NDArray[np.float32], stick: int) -> None:
    """Draw a person's limbs, then the joints; `stick` is half a limb's width in px."""
    points = _openpose(person)
    for colour, (start, stop) in zip(_COLOURS, _LIMBS, strict=False):
        if points[start] and points[stop]:
            light = tuple(round(_LIMB_LIGHT * level) for level in colour)
            cv2.line(canvas, points[start], points[stop], light, 2 * stick, cv2.LINE_AA)
    for number, point in enumerate(points):
        if point:
            cv2.circle(canvas, point, stick, _COLOURS[number], cv2.FILLED, cv2.LINE_AA)


def _openpose(person: NDArray[np.float32]) -> Sequence[Any]:
    """Return (x, y) of OpenPose's 18 points; None for a point below POSE_CONFIDENCE."""
    left, right = person[5], person[6]
    neck = (left + right) / 2
    neck[2] = min(left[2], right[2])
    points = [neck if number < 0 else person[number] for number in _FROM_COCO]
    return [(round(float(p[0])), round(float(p[1]))) if p[2] >= POSE_CONFIDENCE else None for p in points]
