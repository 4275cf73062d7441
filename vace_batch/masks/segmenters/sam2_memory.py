"""SAM 2's memory: an object that was prompted once is found again on the frames after it, gone and come back too."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, make_mask

# What ultralytics keeps of the past does not depend on it, but asks for it.
_ANY_LENGTH = 1 << 30

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
        from ultralytics.models.sam.predict import SAM2VideoPredictor

        overrides = {"imgsz": side, "device": device, "model": "sam2_t.pt", "save": False, "verbose": False}
        self._predictor = SAM2VideoPredictor(overrides=overrides)
        self._predictor.setup_model(model=model, verbose=False)
        model.set_binarize(True)
        self._side = side
        self._image: Any = None

    def new_past(self) -> Any:
        """The empty past of one object."""
        return self._predictor._init_state(_ANY_LENGTH)

    def see(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        """The next frame."""
        import torch

        predictor = self._predictor
        predictor.imgsz = [self._side, self._side]
        predictor._bb_feat_sizes = [[self._side // step] * 2 for step in (4, 8, 16)]
        predictor.model.set_imgsz(predictor.imgsz)
        bgr = np.ascontiguousarray(rgb_HWC[..., ::-1])
        predictor.batch = ([""], [bgr], [""])
        with torch.inference_mode():
            self._image = predictor.preprocess([bgr])
            predictor.backbone_out = predictor.model.forward_image(self._image)

    def find(self, past: Any, index: int, mark: Mark | None = None, *, time: int | None = None) -> FrameMask | None:
        """The object of `past` in frame `index`, the one seen last; None where it is not.

        `mark` marks it: on its first frame one that `begins`, later ones correct what was found. `time` must rise from
        frame to frame and is the index unless given: a past that goes backwards has its own.
        """
        import torch
        from ultralytics.utils import ops

        predictor = self._predictor
        shape = predictor.src_shape
        time = index if time is None else time
        predictor.inference_state = past
        predictor.dataset = SimpleNamespace(frame=time, mode="video")
        past["im"] = self._image
        with torch.inference_mode():
            if mark is not None:
                points, labels, masks = predictor._prepare_prompts(
                    self._image.shape[2:], shape, **_prompts(mark, shape)
                )
                predictor.add_new_prompts(obj_id=0, points=points, labels=labels, masks=masks, frame_idx=time)
            logits, _ = predictor.inference(self._image)
            # The picture lies in the upper left of the model's square: as `inference_features` takes it out again.
            gain = self._side / max(shape)
            ratio = [round(length * gain) * logits.shape[-1] / self._side / length for length in shape]
            full = ops.scale_masks(logits[None].float(), shape, (ratio, (0, 0)), padding=False)[0, 0]
            return make_mask(index, np.asarray((full > predictor.model.mask_threshold).cpu().numpy(), np.bool_))


def _prompts(mark: Mark, shape: tuple[int, int]) -> dict[str, Any]:
    if mark.mask is not None:
        return {"masks": [mark.mask.full(Size(shape[1], shape[0])).astype(np.uint8)]}
    box, points = mark.box, mark.points
    return {
        "bboxes": None if box is None else [[box.x, box.y, box.right, box.bottom]],
        "points": [[[x, y] for x, y, _ in points]] if points else None,
        "labels": [[int(positive) for *_, positive in points]] if points else None,
    }
