"""SAM 2's memory: an object that was prompted once is found again on the frames after it, gone and come back too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.ultralytics_private import VideoPredictor
from vace_batch.masks.store import FrameMask, make_mask

PointPrompts = tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What marks an object in one frame: a box, points (x, y, is on it) or both, in display pixels; or its mask."""

    box: Box | None = None
    points: PointPrompts = ()
    mask: FrameMask | None = None

    @property
    def begins(self) -> bool:
        """Whether it says where the object is, not only where it is not."""
        return self.box is not None or self.mask is not None or any(positive for *_, positive in self.points)


class Memory:
    """Finds objects by what it saw of them before, in frames that come one after another, forwards or backwards.

    `see` takes a frame, which is encoded once for all objects; then `find` is asked for each of them.
    """

    def __init__(self, model: Any, *, device: str, side: int) -> None:
        """`model` is a loaded SAM2Model, which may be shared; pictures are shown to it at `side` px."""
        self._predictor = VideoPredictor(model, device=device, side=side)

    def new_past(self) -> Any:
        """The empty past of one object."""
        return self._predictor.new_state()

    def see(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        """The next frame."""
        self._predictor.see(rgb_HWC)

    def find(self, past: Any, index: int, mark: Mark | None = None, *, time: int | None = None) -> FrameMask | None:
        """The object of `past` in frame `index`, the one seen last; None where it is not.

        `mark` marks it: on its first frame one that `begins`, later ones correct what was found. `time` must rise from
        frame to frame and is the index unless given: a past that goes backwards has its own.
        """
        prompts = None if mark is None else _prompts(mark, self._predictor.shape)
        return make_mask(index, self._predictor.find(past, index if time is None else time, prompts))


def _prompts(mark: Mark, shape: tuple[int, int]) -> dict[str, Any]:
    if mark.mask is not None:
        return {"masks": [mark.mask.full(Size(shape[1], shape[0])).astype(np.uint8)]}
    box, points = mark.box, mark.points
    return {
        "bboxes": None if box is None else [[box.x, box.y, box.right, box.bottom]],
        "points": [[[x, y] for x, y, _ in points]] if points else None,
        "labels": [[int(positive) for *_, positive in points]] if points else None,
    }
