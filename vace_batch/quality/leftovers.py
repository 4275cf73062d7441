"""The detector, run again: is what was removed still found, and is there something that was not there before?"""

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
from vace_batch.quality.compare import Watched

LOOKS = 8
"""Frames that are looked at, evenly spread over the masked ones."""

_INSIDE = 0.5


def look_for(job: Job, watched: Watched, masked: Sequence[int], models: MaskModels) -> dict[str, float]:
    """Shares of the frames looked at in which the detector finds the job's targets, and other new things, in the mask.

    Raises:
        ClipError: the weights cannot be used.
    """
    targets = [name for name in classes_of(job) if name in job.targets]
    if not targets or not masked:
        return {}
    detector = models.load_detector(job.detector)
    wanted = {fold_name(target) for target in targets}
    detector.check_targets(targets)
    every = list(detector.classes.values())
    found = np.zeros(2)
    frames = [masked[at] for at in np.unique(np.linspace(0, len(masked) - 1, LOOKS).astype(int))]
    for index in frames:
        source, output, mask = watched.still(index)
        after = [
            one
            for one in detector.detect(output, every, conf=models.confidence)
            if _share_inside(one.box, mask) >= _INSIDE
        ]
        if not after:
            continue
        seen = [] if source is None else detector.detect(source, every, conf=models.confidence)
        before = [one for one in seen if fold_name(one.label) not in wanted]
        found += (
            any(fold_name(one.label) in wanted for one in after),
            any(fold_name(one.label) not in wanted and not _was_there(one, before) for one in after),
        )
    still, new = (found / len(frames)).tolist()
    return {"detected": round(still, 4), "appeared": round(new, 4)}


def _share_inside(box: Box, mask: FrameMask) -> float:
    inside: npt.NDArray[np.bool_] = mask.within(box)
    return float(inside.mean())


def _was_there(one: Detection, before: Sequence[Detection]) -> bool:
    """Whether something lay in the same place, by whatever name; in the place of a target everything else is new."""
    for other in before:
        common = one.box.intersect(other.box)
        if common is not None:
            area = common.width * common.height
            union = one.box.width * one.box.height + other.box.width * other.box.height - area
            if area / union > _INSIDE:
                return True
    return False
