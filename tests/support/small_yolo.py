"""YOLO's real architectures, narrow and with random weights, that look at their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vace_batch.masks.detectors.onnx_export import export_onnx, new_segmentation_model
from vace_batch.masks.detectors.yolo import import_ultralytics

NAMES = ("ball", "horse", "car")


Weights = tuple[str, str]


def build(folder: Path, family: str, *, doubles: bool = True) -> Weights:
    """The real architecture, narrow, with random weights; without `doubles` it has YOLO26's end-to-end head."""
    import_ultralytics()
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    made = new_segmentation_model(NAMES, [0.33, 0.125, 256], family)
    see_pictures(made.model)
    path, target = folder / f"{family}.pt", folder / f"{family}.onnx"
    made.save(path)
    if doubles:
        export_onnx(str(path), str(target), (128, 128))
    else:
        YOLO(path).export(format="onnx", imgsz=128, dynamic=True, simplify=False, opset=17, nms=False, verbose=False)
    return str(path), str(target)


def see_pictures(model: Any) -> None:
    """Make random weights react to the picture: norm layers on sample pictures, and vary the heads' outputs."""
    import torch

    def of(path: str) -> bool:
        return any(
            f".{head}." in f".{path}." for head in ("cv2", "cv3", "cv4", "one2one_cv2", "one2one_cv3", "one2one_cv4")
        )

    pictures = torch.tensor(np.stack([scene(seed, 0)[:96, :192] for seed in range(6)])).permute(0, 3, 1, 2) / 255.0
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pictures)
        for path, module in model.model[-1].named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None and of(path):
                module.weight *= 6
                if module.out_channels == len(NAMES):
                    module.bias.fill_(-4)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def scene(seed: int, index: int) -> np.ndarray:
    """Frame `index` of a pan over coarse blocks, 120 x 216."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 20, 3), np.uint8)
    return np.kron(coarse, np.ones((15, 18, 1), np.uint8))[:120, 9 * index : 9 * index + 216]
