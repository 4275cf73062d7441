"""Outline prompted objects with SAM, MobileSAM and SAM 2 through ultralytics."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box
from vace_batch.masks.detectors.detection import one_line
from vace_batch.masks.detectors.yolo import UNREADABLE_WEIGHTS, local_path
from vace_batch.masks.keyframes import PointPrompts
from vace_batch.masks.segmenters.sam2_memory import Memory
from vace_batch.masks.store import FrameMask, make_mask

_INPUT_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt for one object: a box, or points (x, y, is on the object), or both; display pixels."""

    box: Box | None = None
    points: PointPrompts = ()

    def __post_init__(self) -> None:
        if self.box is None and not any(positive for *_, positive in self.points):
            raise ValueError("prompt: expected a box or a point on the object")


class Segmenter:
    """Loaded SAM weights; keep one an actor. SAM 2 has a `memory` of earlier frames, the others have None."""

    def __init__(self, predictor: Any, memory: Memory | None = None) -> None:
        self._predictor = predictor
        self.memory = memory

    @classmethod
    def load(cls, weights: str, *, device: str = "cpu") -> Segmenter:
        """Load a local file whose name ends as ultralytics' releases do (sam_b.pt, mobile_sam.pt, sam2.1_t.pt, ...).

        The name decides the architecture; the file is read without running code from it.

        Raises:
            ClipError: `weights_not_found`, `bad_weights`, `wrong_weights` (a name without an architecture).
        """
        path = local_path(weights)
        import torch
        from ultralytics.models.sam import Predictor, SAM2Predictor
        from ultralytics.models.sam.build import build_sam, sam_model_map

        name = next((name for name in sorted(sam_model_map, key=len, reverse=True) if path.endswith(name)), None)
        if name is None:
            reason = f"weights {weights}: expected a file name ending in one of {', '.join(sam_model_map)}"
            raise ClipError("wrong_weights", reason)
        try:
            # build_sam unpickles any code: load the file without running code first.
            torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            model = build_sam(path)
        except UNREADABLE_WEIGHTS as error:
            raise ClipError("bad_weights", f"weights {weights} cannot be loaded: {one_line(error)}") from error
        overrides = {"imgsz": _INPUT_PX, "device": device, "model": path, "save": False, "verbose": False}
        predictor = (SAM2Predictor if name.startswith("sam2") else Predictor)(overrides=overrides)
        predictor.setup_model(model=model, verbose=False)
        return cls(predictor, Memory(model, device=device, side=_INPUT_PX) if name.startswith("sam2") else None)

    def segment(
        self, rgb_HWC: npt.NDArray[np.uint8], prompts: Sequence[Prompt], *, index: int = 0
    ) -> list[FrameMask | None]:
        """Return the mask of each prompt's object in one frame, at full resolution; None for an object not found.

        The frame is encoded once for all prompts.
        """
        if not prompts:
            return []
        self._predictor.set_image(np.ascontiguousarray(rgb_HWC[..., ::-1]))
        height, width = rgb_HWC.shape[:2]
        return [make_mask(index, self._mask(prompt, (height, width))) for prompt in prompts]

    def _mask(self, prompt: Prompt, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the full-resolution mask (H, W) of one prompt."""
        box = prompt.box
        # One point can mean a part, an object or a group: predict all three and take the one of highest confidence.
        ambiguous = box is None and len(prompt.points) == 1
        masks, rows = self._predictor.inference_features(
            self._predictor.features,
            src_shape=shape,
            bboxes=None if box is None else [[box.x, box.y, box.right, box.bottom]],
            points=[[[x, y] for x, y, _ in prompt.points]] if prompt.points else None,
            labels=[[int(positive) for *_, positive in prompt.points]] if prompt.points else None,
            multimask_output=ambiguous,
        )
        if masks is None:
            return np.zeros(shape, np.bool_)
        best = int(rows[:, 4].argmax())
        return np.asarray(masks[best].cpu().numpy(), np.bool_)
