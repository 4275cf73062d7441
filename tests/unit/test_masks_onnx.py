from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks import onnx
from vace_batch.masks.detect import Detector
from vace_batch.masks.detection import Detection
from vace_batch.masks.export import export_onnx, exported, new_segmentation_model
from vace_batch.masks.onnx import ExportedDetector, Letterbox

NAMES = ("ball", "horse", "car")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real architecture, narrow, with random weights of a fixed seed."""
    from vace_batch.masks.detect import import_ultralytics

    import_ultralytics()
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    new_segmentation_model(NAMES, [0.33, 0.125, 256]).save(path)
    export_onnx(str(path), str(path.with_suffix(".onnx")), (128, 128))
    return str(path)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    return np.kron(coarse, np.ones((15, 18, 1), np.uint8))


def iou(one: Detection, other: Detection) -> float:
    common = one.box.intersect(other.box)
    area = 0 if common is None else common.width * common.height
    return area / (one.box.width * one.box.height + other.box.width * other.box.height - area)


def test_what_torch_finds_is_found_without_it(weights: str, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "backend", lambda: "onnxruntime")
    theirs = Detector.load(weights).detect(rgb, NAMES, conf=1e-7)
    ours = ExportedDetector.load(weights.replace(".pt", ".onnx"))
    ours.side = 640  # ultralytics' own; this one was exported for less
    mine = ours.detect(rgb, NAMES, conf=1e-7)
    assert theirs and len(mine) == len(theirs)
    assert [one.label for one in mine] == [one.label for one in theirs]
    assert np.allclose([one.confidence for one in mine], [one.confidence for one in theirs], rtol=1e-3)
    assert min(iou(one, other) for one, other in zip(mine, theirs, strict=True)) >= 0.99
    masks = [(one.mask, other.mask) for one, other in zip(mine, theirs, strict=True) if one.mask and other.mask]
    assert masks
    for one, other in masks:
        union = one.box.union(other.box)
        a, b = one.within(union), other.within(union)
        assert (a & b).sum() / (a | b).sum() >= 0.99


@pytest.mark.parametrize(
    ("display", "network", "inner"),
    [
        (Size(1920, 1080), Size(640, 384), Size(640, 360)),
        (Size(360, 640), Size(384, 640), Size(360, 640)),
        (Size(853, 481), Size(640, 384), Size(640, 361)),
        (Size(4096, 16), Size(640, 32), Size(640, 2)),
    ],
)
def test_wide_video_has_a_wide_network(display: Size, network: Size, inner: Size) -> None:
    made = Letterbox.of(display, 640, 32)
    assert (made.network, made.inner) == (network, inner)
    placed = made.place(np.zeros((inner.height, inner.width, 3), np.uint8))
    assert placed.shape == (network.height, network.width, 3)
    assert (placed == 0).all(axis=2).sum() == inner.width * inner.height


def test_an_export_is_made_once(weights: str, tmp_path: Path) -> None:
    cache = str(tmp_path)
    first = exported(weights, cache)
    stamp = Path(first).stat().st_mtime_ns
    assert exported(weights, cache) == first and Path(first).stat().st_mtime_ns == stamp
    assert exported(first, cache) == first
    assert ExportedDetector.load(first).classes == dict(enumerate(NAMES))
    assert [path.name for path in tmp_path.iterdir()] == [Path(first).name]


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(ClipError) as error:
        ExportedDetector.load(str(tmp_path / "w.onnx"))
    assert error.value.code == "bad_weights"


def test_an_unknown_class_names_the_near_ones(weights: str) -> None:
    with pytest.raises(ClipError, match="near: horse"):
        ExportedDetector.load(weights.replace(".pt", ".onnx")).check_targets(["hors"])
