"""Objects by class name: ultralytics YOLO detection and segmentation weights."""

from __future__ import annotations

import difflib
import math
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError, UsageError
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.masks.weights import prepare_ultralytics

DEFAULT_CONFIDENCE = 0.25

# What a damaged, foreign or too new file raises, by its format and by how far the loader gets.
UNREADABLE_WEIGHTS = (
    AttributeError, EOFError, ImportError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One found object: `box` in display pixels, rounded outward; `mask` from segmentation weights, else None."""

    box: Box
    label: str
    confidence: float
    mask: FrameMask | None


class Detector:
    """Loaded weights, ready to find objects frame by frame; keep one an actor, not one a frame."""

    def __init__(self, model: Any, weights: str, device: str) -> None:
        self._model = model
        self._weights = weights
        self._device = device
        self.classes: dict[int, str] = dict(model.names)

    @classmethod
    def load(cls, weights: str, *, device: str = "cpu") -> Detector:
        """Load a local `.pt` or `.onnx` file of a detection or segmentation model.

        Raises:
            ClipError: `weights_not_found`, `bad_weights`, `wrong_weights` (another task).
            UsageError: ultralytics was imported before this package could make it load safely.
        """
        path = local_path(weights)
        from ultralytics import YOLO

        try:
            model = YOLO(path)
            names = model.names
        except UNREADABLE_WEIGHTS as error:
            raise ClipError("bad_weights", f"weights {weights} cannot be loaded: {one_line(error)}") from error
        if model.task not in ("detect", "segment") or not names:
            reason = f"weights {weights}: expected a detection or segmentation model, got {model.task}"
            raise ClipError("wrong_weights", reason)
        return cls(model, weights, device)

    def check_targets(self, targets: Sequence[str]) -> list[int]:
        """The class numbers of `targets`, compared without case and outer blanks.

        Raises:
            ClipError: `unknown_class`, with the nearest names that the weights know.
        """
        known: dict[str, list[int]] = {}
        for number, name in self.classes.items():
            known.setdefault(fold_name(name), []).append(number)
        unknown = [target for target in targets if fold_name(target) not in known]
        if unknown:
            hints = "; ".join(_near(target, list(self.classes.values())) for target in unknown)
            raise ClipError("unknown_class", f"targets: {Path(self._weights).name} does not know {hints}")
        return sorted({number for target in targets for number in known[fold_name(target)]})

    def detect(
        self,
        rgb_HWC: npt.NDArray[np.uint8],
        targets: Sequence[str],
        *,
        conf: float = DEFAULT_CONFIDENCE,
        index: int = 0,
    ) -> list[Detection]:
        """Objects of the `targets` classes in one frame, surest first; masks are at the frame's full resolution.

        Raises:
            ClipError: `unknown_class`.
        """
        numbers = self.check_targets(targets)
        if not numbers:
            return []
        result = self._model.predict(
            np.ascontiguousarray(rgb_HWC[..., ::-1]),  # ultralytics takes arrays as BGR
            classes=numbers,
            conf=conf,
            device=self._device,
            verbose=False,
            save=False,
            predictor=_box_mask_predictor() if self._model.task == "segment" else None,
        )[0]
        size = Size(rgb_HWC.shape[1], rgb_HWC.shape[0])
        rows = result.boxes.data.cpu().tolist()
        logits = getattr(result, "mask_logits", None)
        found = []
        for number, (*edges, confidence, class_number) in enumerate(rows):
            box = _outward(edges, size)
            if box is None:
                continue
            mask = None if logits is None else make_mask(index, logits.bits(number, box), (box.x, box.y))
            label = self.classes[int(class_number)]
            found.append(Detection(box=box, label=label, confidence=confidence, mask=mask))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLogits:
    """A segmentation head's output, from which a mask is made inside its box only.

    Scaling N masks to a 1080p frame first (`retina_masks`) costs 314 ms a frame. `gain` and `pad` lead from display
    pixels (x, y) to prototype pixels.
    """

    prototypes: npt.NDArray[np.float32]
    """(C,h,w)"""
    coefficients: npt.NDArray[np.float32]
    """(N,C)"""
    gain: tuple[float, float]
    pad: tuple[float, float]

    @staticmethod
    def of(
        prototypes: npt.NDArray[np.float32],
        coefficients: npt.NDArray[np.float32],
        network: tuple[int, int],
        display: tuple[int, int],
    ) -> MaskLogits:
        """Undo the letterbox from `display` (H,W) to `network` (H,W), and the prototypes' coarser grid."""
        scale = min(network[0] / display[0], network[1] / display[1])
        gains, pads = [], []
        for axis in (1, 0):
            inner = max(round(display[axis] * scale), 1)
            grid = prototypes.shape[axis + 1] / network[axis]
            gains.append(inner / display[axis] * grid)
            pads.append(round((network[axis] - inner) / 2 - 0.1) * grid)
        return MaskLogits(
            prototypes=prototypes, coefficients=coefficients, gain=(gains[0], gains[1]), pad=(pads[0], pads[1])
        )

    def bits(self, number: int, box: Box) -> npt.NDArray[np.bool_]:
        """The mask of object `number` inside `box` (display pixels), (h,w) bool."""
        depth, rows, columns = self.prototypes.shape
        (gain_x, gain_y), (pad_x, pad_y) = self.gain, self.pad
        # A pixel of margin for the interpolation, and one because samples sit in the middle of their pixels.
        left = min(max(math.floor(box.x * gain_x + pad_x) - 2, 0), columns - 1)
        top = min(max(math.floor(box.y * gain_y + pad_y) - 2, 0), rows - 1)
        right = min(math.ceil(box.right * gain_x + pad_x) + 2, columns)
        bottom = min(math.ceil(box.bottom * gain_y + pad_y) + 2, rows)
        part = self.prototypes[:, top:bottom, left:right]
        logits = (self.coefficients[number] @ part.reshape(depth, -1)).reshape(part.shape[1:])
        offset_x = (box.x + 0.5) * gain_x + pad_x - 0.5 - left
        offset_y = (box.y + 0.5) * gain_y + pad_y - 0.5 - top
        scaled = cv2.warpAffine(
            logits,
            np.array([[gain_x, 0, offset_x], [0, gain_y, offset_y]]),
            (box.width, box.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(scaled > 0, np.bool_)


@cache
def _box_mask_predictor() -> Any:
    from ultralytics.models.yolo.detect import DetectionPredictor
    from ultralytics.models.yolo.segment import SegmentationPredictor

    class BoxMaskPredictor(SegmentationPredictor):  # type: ignore[misc,unused-ignore]
        """Hands the prototypes on instead of scaling every mask to the frame."""

        def construct_result(self, pred: Any, img: Any, orig_img: Any, img_path: Any, proto: Any) -> Any:
            result = DetectionPredictor.construct_result(self, pred, img, orig_img, img_path)
            result.mask_logits = MaskLogits.of(
                proto.float().cpu().numpy(), pred[:, 6:].float().cpu().numpy(), img.shape[2:], orig_img.shape[:2]
            )
            return result

    return BoxMaskPredictor


@cache
def import_ultralytics() -> None:
    """Import ultralytics for the first time: offline, and without the functions of other packages that it replaces.

    Its `PIL.Image.open` turns any unreadable picture into a missing package.
    """
    import torch
    from PIL import Image

    prepare_ultralytics()
    image_open, torch_save = Image.open, torch.save
    with np.printoptions():
        import ultralytics.utils  # noqa: F401
    Image.open, torch.save = image_open, torch_save


def local_path(weights: str) -> str:
    """The absolute path of a local weights file, checked to be one that ultralytics opens as it stands.

    Raises:
        ClipError: `weights_not_found`, `bad_weights`.
        UsageError: ultralytics was imported before this package could make it load safely.
    """
    import_ultralytics()
    from ultralytics.utils import SAFE_LOAD
    from ultralytics.utils.checks import check_yolov5u_filename

    if not SAFE_LOAD:
        raise UsageError("ultralytics was imported before vace_batch.masks: set ULTRALYTICS_SAFE_LOAD=true before it")
    path = str(Path(weights).absolute())
    if not Path(path).is_file():
        raise ClipError("weights_not_found", f"weights {weights}: no such file; give the path of a file that is here")
    # ultralytics drops quotes and blanks, renames old YOLOv5 files, and downloads what is then missing.
    if check_yolov5u_filename(path.strip().replace("'", ""), verbose=False) != path:
        raise ClipError("bad_weights", f"weights {weights}: rename the file without quotes, outer blanks and 'yolov5'")
    return path


def download_release(name: str, folder: str) -> str:
    """Fetch weights that ultralytics publishes under `name` (yolo11n-seg.pt, sam2.1_t.pt, ...) unless they are here.

    Raises:
        ClipError: `weights_not_found`, no release of that name or it cannot be fetched.
    """
    import_ultralytics()
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise ClipError("weights_not_found", f"weights {name!r} are no release of ultralytics")
    Path(folder).mkdir(parents=True, exist_ok=True)
    target = Path(folder, name)
    try:
        attempt_download_asset(target)
    except (OSError, RuntimeError) as error:
        raise ClipError("weights_not_found", f"weights {name!r}: {one_line(error)}", retryable=True) from error
    return str(target)


def one_line(error: BaseException) -> str:
    """An exception for a row: its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _outward(edges: Sequence[float], size: Size) -> Box | None:
    left, top = (max(math.floor(edge), 0) for edge in edges[:2])
    right, bottom = min(math.ceil(edges[2]), size.width), min(math.ceil(edges[3]), size.height)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def fold_name(name: str) -> str:
    """A class name as it is compared: without case, outer and doubled blanks."""
    return " ".join(name.casefold().split())


def _near(target: str, names: Sequence[str]) -> str:
    by_folded = {fold_name(name): name for name in names}
    close = difflib.get_close_matches(fold_name(target), by_folded, n=3, cutoff=0.5)
    close += [name for name in by_folded if fold_name(target) in name and name not in close][:3]
    if close:
        return f"{target!r} (near: {', '.join(by_folded[name] for name in close)})"
    return f"{target!r} (it knows {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
