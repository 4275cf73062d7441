"""Detect objects by class name with ultralytics YOLO detection and segmentation weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError, UsageError
from vace_batch.geometry import Size
from vace_batch.masks.detectors import ultralytics_private as private
from vace_batch.masks.detectors.detection import (
    DEFAULT_CONFIDENCE,
    Detection,
    class_numbers,
    fold_name,
    one_line,
    outward,
)
from vace_batch.masks.detectors.vocabulary import text_features
from vace_batch.masks.store import make_mask
from vace_batch.masks.weights import prepare_ultralytics

# Errors of damaged, foreign and too new files, by their format and the loader's progress.
UNREADABLE_WEIGHTS = (
    AttributeError, EOFError, ImportError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


class Detector:
    """Loaded weights that detect objects frame by frame; keep one an actor, not one a frame."""

    def __init__(self, model: Any, weights: str, device: str, beside: Sequence[str] = ()) -> None:
        self._model = model
        self._weights = weights
        self._device = device
        self._beside = tuple(beside)
        self.classes: dict[int, str] = dict(model.names)
        self._saved_vocabulary: tuple[list[str], Any] | None = None
        if has_open_vocabulary(model):
            self._saved_vocabulary = list(self.classes.values()), private.saved_features(model)

    @classmethod
    def load(cls, weights: str, *, device: str = "cpu", beside: Sequence[str] = ()) -> Detector:
        """Load a local `.pt` or `.onnx` file of a detection or segmentation model.

        `beside` are files that an open vocabulary may take its text encoder from.

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
        return cls(model, weights, device, beside)

    def check_targets(self, targets: Sequence[str]) -> list[int]:
        """Look up the class numbers of `targets`, without regard to case and outer blanks.

        YOLOE and YOLO-World find any name. Their vocabulary is set here, which needs their text encoder unless the file
        was saved with a vocabulary that holds all names.

        Raises:
            ClipError: `unknown_class`, with the nearest names that the weights know; `no_text_encoder`.
        """
        if self._saved_vocabulary is not None:
            asked = {fold_name(target): " ".join(target.split()) for target in targets}
            self._set_vocabulary(list(asked.values()), *self._saved_vocabulary)
        return class_numbers(targets, self.classes, self._weights)

    def _set_vocabulary(self, names: list[str], saved_names: list[str], saved_features: Any) -> None:
        """Set the model's vocabulary: the saved one if it holds all `names`, else only `names`."""
        if private.has_fixed_names(self._model):
            return
        features = None
        if saved_features is not None and set(map(fold_name, names)) <= set(map(fold_name, saved_names)):
            names, features = saved_names, saved_features
        if names == list(self.classes.values()):
            return
        if features is None:
            encoded = text_features(names, private.text_encoder_kind(self._model), self._beside)
            features = private.class_features(self._model, encoded)
        private.set_vocabulary(self._model, names, features)
        self.classes = dict(enumerate(names))

    def detect(
        self,
        rgb_HWC: npt.NDArray[np.uint8],
        targets: Sequence[str],
        *,
        conf: float = DEFAULT_CONFIDENCE,
        index: int = 0,
    ) -> list[Detection]:
        """Detect objects of the `targets` classes in one frame, highest confidence first; masks at full resolution.

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
            predictor=private.box_mask_predictor() if self._model.task == "segment" else None,
        )[0]
        size = Size(rgb_HWC.shape[1], rgb_HWC.shape[0])
        rows = result.boxes.data.cpu().tolist()
        logits = getattr(result, "mask_logits", None)
        detections = []
        for number, (*edges, confidence, class_number) in enumerate(rows):
            box = outward(edges, size)
            if box is None:
                continue
            mask = None if logits is None else make_mask(index, logits.bits(number, box), (box.x, box.y))
            label = self.classes[int(class_number)]
            detections.append(Detection(box=box, label=label, confidence=confidence, mask=mask))
        return detections


def has_open_vocabulary(model: Any) -> bool:
    """Return whether a loaded ultralytics model has an open vocabulary."""
    from ultralytics import YOLOE, YOLOWorld

    return isinstance(model, (YOLOE, YOLOWorld))


@cache
def import_ultralytics() -> None:
    """Import ultralytics offline, and undo its replacement of functions of other packages.

    Its `PIL.Image.open` reports any unreadable picture as a missing package.
    """
    import torch
    from PIL import Image

    prepare_ultralytics()
    image_open, torch_save = Image.open, torch.save
    with np.printoptions():
        import ultralytics.utils  # noqa: F401
    Image.open, torch.save = image_open, torch_save


def local_path(weights: str) -> str:
    """Return the absolute path of a local weights file that ultralytics opens under this very name.

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
        raise ClipError("weights_not_found", f"weights {weights}: no such file; give a path on this machine")
    # ultralytics drops quotes and blanks, renames old YOLOv5 files, and downloads a file that is then missing.
    if check_yolov5u_filename(path.strip().replace("'", ""), verbose=False) != path:
        raise ClipError(
            "bad_weights", f"weights {weights}: rename the file: no quotes, outer blanks or 'yolov5' in its name"
        )
    return path


def download_release(name: str, folder: str) -> str:
    """Download weights that ultralytics publishes as `name` (yolo11n-seg.pt, ...), unless `folder` holds them.

    Raises:
        ClipError: `weights_not_found`, the name is not a release or the download fails.
    """
    import_ultralytics()
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise ClipError("weights_not_found", f"weights {name!r} are not a release of ultralytics")
    Path(folder).mkdir(parents=True, exist_ok=True)
    target = Path(folder, name)
    try:
        attempt_download_asset(target)
    except (OSError, RuntimeError) as error:
        raise ClipError("weights_not_found", f"weights {name!r}: {one_line(error)}", retryable=True) from error
    return str(target)
