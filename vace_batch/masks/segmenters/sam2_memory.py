"""Find an object again on later frames by SAM 2's memory of one prompt, also after the object was away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.ultralytics_private import VideoPredictor
from vace_batch.masks.keyframes import PointPrompts
from vace_batch.masks.store import FrameMask, make_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark of an object in one frame: a box, points (x, y, is on it) or both, in display pixels; or its mask."""

    box: Box | None = None
    points: PointPrompts = ()
    mask: FrameMask | None = None

    @property
    def begins(self) -> bool:
        """Whether the mark shows where the object is, not only where it is not."""
        return self.box is not None or self.mask is not None or any(positive for *_, positive in self.points)


class Memory:
    """Finds objects by SAM 2's memory of them, in frames that come one after another, forwards or backwards.

    `see` encodes a frame once for all objects; then `find` is called for each object.
    """

    def __init__(self, model: Any, *, device: str, side: int) -> None:
        """`model` is a loaded SAM2Model, which may be shared; frames are scaled to `side` px."""
        self._predictor = VideoPredictor(model, device=device, side=side)

    def new_past(self) -> Any:
        """Return the empty past of one object."""
        return self._predictor.new_state()

    def see(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        """Encode the next frame."""
        self._predictor.see(rgb_HWC)

    def find(self, past: Any, index: int, mark: Mark | None = None, *, time: int | None = None) -> FrameMask | None:
        """Return the mask of `past`'s object in frame `index`, the frame seen last; None if it is not found.

        `mark` marks the object: the first one must be one that `begins`, later ones correct the memory. `time` must
        rise from frame to frame; the default is the index. A past that goes backwards needs its own `time`.
        """
        prompts = None if mark is None else _prompts(mark, self._predictor.shape)
        return make_mask(index, self._predictor.find(past, index if time is None else time, prompts))


def _prompts(mark: Mark, shape: tuple[int, int]) -> dict[str, Any]:
    """Return a mark in the form of ultralytics' prompts."""
    if mark.mask is not None:
        return {"masks": [mark.mask.full(Size(shape[1], shape[0])).astype(np.uint8)]}
    box, points = mark.box, mark.points
    return {
        "bboxes": None if box is None else [[box.x, box.y, box.right, box.bottom]],
        "points": [[[x, y] for x, y, _ in points]] if points else None,
        "labels": [[int(positive) for *_, positive in points]] if points else None,
    }
