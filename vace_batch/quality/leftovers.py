"""Run the detector on a finished clip: is the removed object still found, and is something new found in its place?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.detection import Detection, fold_name
from vace_batch.masks.detectors.yolo import Detector
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.finder import classes_of
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask
from vace_batch.quality.compare import Comparison, RgbImage

SAMPLED_FRAMES = 8
"""Frames that the detector is run on, evenly spread over the masked ones."""

_INSIDE = 0.5


def detect_leftovers(job: Job, comparison: Comparison, masked: Sequence[int], models: MaskModels) -> dict[str, float]:
    """Measure the shares of sampled frames with a target (`detected`) and with a new object (`appeared`) in the mask.

    Raises:
        ClipError: the weights cannot be used.
    """
    targets = [name for name in classes_of(job) if name in job.targets]
    if not targets or not masked:
        return {}
    detector = models.load_detector(job.detector)
    detector.check_targets(targets)
    search = _Search(detector=detector, confidence=models.confidence, targets=frozenset(map(fold_name, targets)))
    frames = [masked[at] for at in np.unique(np.linspace(0, len(masked) - 1, SAMPLED_FRAMES).astype(int))]
    detected = 0
    appeared = 0
    for index in frames:
        source, output, mask = comparison.frame_pair(index)
        after = search.inside(output, mask)
        if not after:
            continue
        others = search.others(source)
        detected += any(map(search.is_target, after))
        appeared += any(not search.is_target(one) and not _was_there(one, others) for one in after)
    return {"detected": round(detected / len(frames), 4), "appeared": round(appeared / len(frames), 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Detects objects of all the detector's classes; `targets` are the folded names of the removed classes."""

    detector: Detector | ExportedDetector
    confidence: float
    targets: frozenset[str]

    def is_target(self, detection: Detection) -> bool:
        return fold_name(detection.label) in self.targets

    def inside(self, output: RgbImage, mask: FrameMask) -> list[Detection]:
        """Detect the objects of an output frame that lie mostly inside the mask."""
        return [one for one in self._detect(output) if _share_inside(one.box, mask) >= _INSIDE]

    def others(self, source: RgbImage | None) -> list[Detection]:
        """Detect the objects of a source frame that are not targets; an empty list without a source frame."""
        if source is None:
            return []
        return [one for one in self._detect(source) if not self.is_target(one)]

    def _detect(self, image: RgbImage) -> list[Detection]:
        return self.detector.detect(image, list(self.detector.classes.values()), conf=self.confidence)


def _share_inside(box: Box, mask: FrameMask) -> float:
    inside: npt.NDArray[np.bool_] = mask.within(box)
    return float(inside.mean())


def _was_there(detection: Detection, before: Sequence[Detection]) -> bool:
    """Tell whether the source had an object of any class in the same place; removed targets are not in `before`."""
    return any(_overlap(detection.box, other.box) > _INSIDE for other in before)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = one.intersect(other)
    if common is None:
        return 0.0
    area = common.width * common.height
    return area / (one.width * one.height + other.width * other.height - area)
