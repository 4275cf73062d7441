"""Find burned-in text (subtitles, captions, titles) with RapidOCR's detector, whose package ships its weights."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.detection import Detection, outward
from vace_batch.masks.store import make_mask

TEXT = "@text"
"""The name of burned-in text in a job's `targets`."""

LONGEST_TEXT_PX = 960
"""Longer frames are shrunk to this length; letters of a subtitle are still 12 px high then."""

# Outlines of letters reach slightly over the box that the detector draws around them.
_MARGIN = 0.12
# Lines taller than this share of the frame need more confidence: objects pass for one huge letter, at 0.5.
_TALL, _SURE_OF_TALL = 0.25, 0.7


class TextFinder:
    """A loaded text detector; keep one an actor."""

    def __init__(self) -> None:
        """Load the detector.

        Raises:
            ClipError: `no_text_detector`, rapidocr is not installed.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            reason = f"targets: {TEXT} needs rapidocr: pip install 'vace-batch[ocr]'"
            raise ClipError("no_text_detector", reason) from error
        threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
        self._reader: Any = RapidOCR(
            params={
                "Global.log_level": "error",
                "Det.limit_type": "max",
                "Det.limit_side_len": LONGEST_TEXT_PX,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def find(self, rgb_HWC: npt.NDArray[np.uint8], display: Size, index: int) -> list[Detection]:
        """Detect lines of text in frame `index`; `rgb_HWC` shows it at any size, a line's mask is its slanted box."""
        bgr = np.ascontiguousarray(rgb_HWC[..., ::-1])
        result = self._reader(bgr, use_det=True, use_cls=False, use_rec=False)
        if result.boxes is None:
            return []
        gain = np.array([display.width / rgb_HWC.shape[1], display.height / rgb_HWC.shape[0]])
        lines = []
        for corners, score in zip(result.boxes, result.scores, strict=True):
            corners = np.asarray(corners, np.float64) * gain
            height = min(np.linalg.norm(corners[0] - corners[3]), np.linalg.norm(corners[0] - corners[1]))
            if height > _TALL * display.height and score < _SURE_OF_TALL:
                continue
            middle = corners.mean(axis=0)
            away = corners - middle
            corners += away / np.maximum(np.abs(away), 1e-6) * height * _MARGIN
            box = outward([*corners.min(axis=0), *corners.max(axis=0)], display)
            mask = None if box is None else make_mask(index, _polygon(corners, box), (box.x, box.y))
            if mask is not None:
                lines.append(Detection(box=mask.box, label=TEXT, confidence=float(score), mask=mask))
        return lines


def _polygon(corners: npt.NDArray[np.float64], box: Box) -> npt.NDArray[np.bool_]:
    """Fill the four `corners` inside `box`, (h,w) bool."""
    canvas = np.zeros((box.height, box.width), np.uint8)
    inside = np.rint(corners - (box.x, box.y)).astype(np.int32)
    return np.asarray(cv2.fillConvexPoly(canvas, inside, 1), np.uint8).astype(np.bool_)
