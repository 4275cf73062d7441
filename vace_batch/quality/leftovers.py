"""Run the detector on a finished clip: is the removed object still found, and is something new found in its place?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.detection import Detection, fold_name
from vace_batch.masks.finder import classes_of
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask
from vace_batch.quality.compare import Comparison

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
    labels = list(detector.classes.values())
    target_labels = {fold_name(target) for target in targets}
    frames = [masked[at] for at in np.unique(np.linspace(0, len(masked) - 1, SAMPLED_FRAMES).astype(int))]
    detected = 0
    appeared = 0
    for index in frames:
        source, output, mask = comparison.frame_pair(index)
        after = [
            detection
            for detection in detector.detect(output, labels, conf=models.confidence)
            if _share_inside(detection.box, mask) >= _INSIDE
        ]
        if not after:
            continue
        before = [] if source is None else detector.detect(source, labels, conf=models.confidence)
        others = [detection for detection in before if fold_name(detection.label) not in target_labels]
        detected += any(fold_name(detection.label) in target_labels for detection in after)
        appeared += any(
            fold_name(detection.label) not in target_labels and not _was_there(detection, others) for detection in after
        )
    return {"detected": round(detected / len(frames), 4), "appeared": round(appeared / len(frames), 4)}


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
