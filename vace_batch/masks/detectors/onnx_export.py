"""Export detector weights to ONNX, which CPU actors run instead of torch, cached by the digest of the weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vace_batch.errors import ClipError
from vace_batch.masks.detectors.detection import one_line
from vace_batch.masks.detectors.yolo import UNREADABLE_WEIGHTS, has_open_vocabulary, import_ultralytics, local_path
from vace_batch.masks.weights import is_exported

_VERSION = 1
_OPSET = 17


def export_onnx(weights: str, target: str, shape: tuple[int, int] | None = None) -> str:
    """Write the ONNX model of local detection or segmentation weights to `target`; return `target`.

    The model accepts images of any size in multiples of the stride; `shape` (H, W) is the size of the traced one.

    Raises:
        ClipError: `weights_not_found`, `bad_weights`, `export_failed`.
        UsageError: ultralytics was imported before this package could make it load safely.
    """
    path = local_path(weights)
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        # ultralytics writes beside the weights, in a folder that may be read-only.
        copy = Path(folder, "weights.pt")
        copy.symlink_to(path)
        try:
            model = YOLO(str(copy))
        except UNREADABLE_WEIGHTS as error:
            raise ClipError("bad_weights", f"weights {weights} cannot be loaded: {one_line(error)}") from error
        if has_open_vocabulary(model):
            raise ClipError(
                "export_failed",
                f"weights {weights}: an export of an open vocabulary knows only the names of its export",
            )
        try:
            exported = model.export(
                format="onnx",
                imgsz=list(shape or (640, 640)),
                dynamic=True,
                simplify=False,
                opset=_OPSET,
                device="cpu",
                verbose=False,
            )
        except (*UNREADABLE_WEIGHTS, AssertionError) as error:
            raise ClipError("export_failed", f"weights {weights}: no ONNX model: {one_line(error)}") from error
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        draft = f"{target}.{os.getpid()}.draft"
        shutil.move(exported, draft)
        os.replace(draft, target)
    return target


def cached_export(weights: str, cache: str) -> str:
    """Return the ONNX model of a local `.pt` file, from the folder `cache` if it is there; an export is returned as it
    is.

    Raises:
        ClipError: as `export_onnx`.
    """
    if is_exported(weights):
        return weights
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    target = Path(cache, f"{digest}.{_VERSION}.onnx")
    return str(target) if target.is_file() else export_onnx(weights, str(target))


def new_segmentation_model(classes: Sequence[str], scale: Sequence[float], family: str = "yolo11") -> Any:
    """Build an ultralytics segmentation model with random weights, of `scale` [depth, width, most channels], to train.

    `family` is yolo11 (its export needs non-maximum suppression) or yolo26 (end to end).
    """
    import_ultralytics()
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    config = YAML.load(check_yaml(f"{family}-seg.yaml")) | {"scales": {"n": list(scale)}, "scale": "n"}
    yolo = YOLO(f"{family}n-seg.yaml", verbose=False)
    yolo.model = SegmentationModel(config, nc=len(classes), verbose=False)
    yolo.model.names = dict(enumerate(classes))
    yolo.model.args = get_cfg()
    yolo.model.task = "segment"
    return yolo
