"""Use the members of ultralytics that its documentation does not promise; no other file of the masks does.

Callers import ultralytics first, by `yolo.import_ultralytics`. An upgrade that removes a member of
`ULTRALYTICS_MEMBERS` fails that member's test by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vace_batch.masks.detectors.detection import MaskLogits

if TYPE_CHECKING:
    from torch import Tensor

ULTRALYTICS_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "ultralytics.models.sam.predict:Predictor": ("features", "inference_features", "set_image"),
    "ultralytics.models.sam.predict:SAM2VideoPredictor": (
        "_bb_feat_sizes", "_init_state", "_prepare_prompts", "add_new_prompts", "backbone_out", "batch", "dataset",
        "inference", "inference_state", "preprocess", "src_shape",
    ),
    "ultralytics.engine.predictor:BasePredictor": ("imgsz", "model", "setup_model"),
    "ultralytics.models.sam.modules.sam:SAM2Model": ("forward_image", "mask_threshold", "set_binarize", "set_imgsz"),
    "ultralytics.models.yolo.detect:DetectionPredictor": ("construct_result",),
    "ultralytics.models.yolo.segment:SegmentationPredictor": ("construct_result",),
    "ultralytics.engine.model:Model": ("predictor",),
    "ultralytics.models.yolo.model:YOLOE": ("set_classes",),
    "ultralytics.nn.modules.head:YOLOEDetect": ("get_tpe", "lrpc"),
    "ultralytics.nn.modules.head:WorldDetect": ("nc",),
    "ultralytics.nn.tasks:YOLOEModel": ("pe", "text_model"),
    "ultralytics.nn.tasks:WorldModel": ("txt_feats",),
    "ultralytics.trackers.bot_sort:BOTSORT": ("gmc",),
    "ultralytics.trackers.utils.gmc:GMC": ("apply",),
}  # fmt: skip
"""By `module:class`, its members that are read, set or overridden here."""

# The state of an object does not depend on the video's length, but asks for it.
_ANY_LENGTH = 1 << 30


class VideoPredictor:
    """SAM 2's video predictor, frame by frame: `see` encodes a frame once, `find` finds one object in it."""

    def __init__(self, model: Any, *, device: str, side: int) -> None:
        """`model` is a loaded SAM2Model, which may be shared; frames are scaled to `side` px."""
        from ultralytics.models.sam.predict import SAM2VideoPredictor

        overrides = {"imgsz": side, "device": device, "model": "sam2_t.pt", "save": False, "verbose": False}
        self._predictor = SAM2VideoPredictor(overrides=overrides)
        self._predictor.setup_model(model=model, verbose=False)
        model.set_binarize(True)
        self._side = side
        self._image: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frame seen last."""
        height, width = self._predictor.src_shape
        return height, width

    def new_state(self) -> Any:
        """Return the empty state of one object."""
        return self._predictor._init_state(_ANY_LENGTH)

    def see(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        """Encode the next frame."""
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

    def find(self, state: Any, time: int, prompts: Mapping[str, Any] | None) -> npt.NDArray[np.bool_]:
        """Return the mask (H, W) of the object of `state` in the last frame; `prompts` in the form of ultralytics."""
        import torch
        from ultralytics.utils import ops

        predictor, shape = self._predictor, self.shape
        predictor.inference_state = state
        predictor.dataset = SimpleNamespace(frame=time, mode="video")
        state["im"] = self._image
        with torch.inference_mode():
            if prompts is not None:
                points, labels, masks = predictor._prepare_prompts(self._image.shape[2:], shape, **prompts)
                predictor.add_new_prompts(obj_id=0, points=points, labels=labels, masks=masks, frame_idx=time)
            logits, _ = predictor.inference(self._image)
            # The frame lies in the upper left of the model's square, as `inference_features` crops it.
            gain = self._side / max(shape)
            ratio = [round(length * gain) * logits.shape[-1] / self._side / length for length in shape]
            full = ops.scale_masks(logits[None].float(), shape, (ratio, (0, 0)), padding=False)[0, 0]
            return np.asarray((full > predictor.model.mask_threshold).cpu().numpy(), np.bool_)


@cache
def box_mask_predictor() -> Any:
    """Return a segmentation predictor class whose results have `mask_logits` in place of full-frame masks."""
    from ultralytics.models.yolo.detect import DetectionPredictor
    from ultralytics.models.yolo.segment import SegmentationPredictor

    class BoxMaskPredictor(SegmentationPredictor):  # type: ignore[misc,unused-ignore]
        """Hands the prototypes on instead of scaling every mask to the frame."""

        def construct_result(
            self, pred: Tensor, img: Tensor, orig_img: npt.NDArray[np.uint8], img_path: str, proto: Tensor
        ) -> Any:
            result = DetectionPredictor.construct_result(self, pred, img, orig_img, img_path)
            result.mask_logits = MaskLogits.of(
                proto.float().cpu().numpy(), pred[:, 6:].float().cpu().numpy(), img.shape[2:], orig_img.shape[:2]
            )
            return result

    return BoxMaskPredictor


def saved_features(model: Any) -> Any:
    """Return the text features that an open-vocabulary model was saved with, or None."""
    return getattr(model.model, "pe", getattr(model.model, "txt_feats", None))


def has_fixed_names(model: Any) -> bool:
    """Return whether a YOLOE finds the names of a long fixed list, and no others."""
    return hasattr(model.model.model[-1], "lrpc")


def text_encoder_kind(model: Any) -> str:
    """Return ultralytics' name of the text encoder that an open-vocabulary model was trained with."""
    return str(getattr(model.model, "text_model", "mobileclip:blt" if _is_yoloe(model) else "clip:ViT-B/32"))


def class_features(model: Any, text_features: Tensor) -> Tensor:
    """Convert text features for the model's head: through YOLOE's own layer, unchanged for YOLO-World."""
    features = text_features.to(next(model.model.parameters()))
    return model.model.model[-1].get_tpe(features).detach() if _is_yoloe(model) else features


def set_vocabulary(model: Any, names: Sequence[str], features: Tensor) -> None:
    """Set the classes of an open-vocabulary model to `names`, with the features that `class_features` returned."""
    if _is_yoloe(model):
        model.set_classes(list(names), features)
    else:
        network = model.model
        network.txt_feats = features
        network.names = dict(enumerate(names))
        network.model[-1].nc = len(names)
    model.predictor = None


def set_camera_motion(tracker: Any, warps: Sequence[npt.NDArray[np.float64]]) -> None:
    """Make a BoT-SORT tracker take the camera's motion from `warps`, one a frame, in place of the frames."""
    stored = iter(warps)
    tracker.gmc = SimpleNamespace(method="stored", apply=lambda *_: next(stored))


def _is_yoloe(model: Any) -> bool:
    return hasattr(model.model.model[-1], "get_tpe")
