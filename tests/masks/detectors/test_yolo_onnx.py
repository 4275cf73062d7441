from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.support.small_yolo import NAMES, Weights, build, scene
from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.detectors import backends
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.detectors.onnx_export import cached_export
from vace_batch.masks.detectors.yolo import Detector
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector, Letterbox
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask, box_mask


def iou(one: FrameMask, other: FrameMask) -> float:
    union = one.box.union(other.box)
    a, b = one.within(union), other.within(union)
    return float((a & b).sum() / (a | b).sum())


def matched(mine: list[Detection], theirs: list[Detection]) -> list[tuple[Detection, Detection]]:
    """Pair the detections by their boxes: the order of equal confidences is open."""
    cost = np.array(
        [
            [1 - (one.label == other.label) * iou(box_mask(0, one.box), box_mask(0, other.box)) for other in theirs]
            for one in mine
        ]
    )
    return [(mine[row], theirs[column]) for row, column in zip(*linear_sum_assignment(cost), strict=True)]


@pytest.mark.parametrize(("family", "doubles"), [("yolo11", True), ("yolo26", True), ("yolo26", False)])
def test_what_torch_finds_is_found_without_it(
    family: str, doubles: bool, built: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes, classes, confidences and masks agree on every frame, for heads with and without duplicates."""
    monkeypatch.setattr(backends, "backend", lambda: "onnxruntime")
    path, target = built if family == "yolo11" else build(tmp_path, family, doubles=doubles)
    torch_s, ours = Detector.load(path), ExportedDetector.load(target)
    assert ours._end2end is not doubles
    torch_s._model.overrides["nms"] = None if doubles else False
    ours.side = 640  # ultralytics' own; this one was exported for less
    seen = set()
    for index in range(3):
        rgb = np.ascontiguousarray(scene(7, index))
        theirs, mine = (one.detect(rgb, NAMES, conf=0.5) for one in (torch_s, ours))
        assert 3 <= len(theirs) == len(mine)
        pairs = matched(mine, theirs)
        assert all(abs(one.confidence - other.confidence) < 1e-3 for one, other in pairs)
        assert min(iou(box_mask(0, one.box), box_mask(0, other.box)) for one, other in pairs) >= 0.99
        assert [one.mask is None for one, _ in pairs] == [other.mask is None for _, other in pairs]
        masks = [(one.mask, other.mask) for one, other in pairs if one.mask and other.mask]
        assert masks and all(
            iou(one, other) >= 0.99 or (one.bits ^ other.within(one.box)).sum() < 4 for one, other in masks
        )
        seen.add(tuple(one.box for one in mine))
    assert len(seen) == 3, "what is found depends on the picture"


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


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(ClipError) as error:
        ExportedDetector.load(str(tmp_path / "w.onnx"))
    assert error.value.code == "bad_weights"


@pytest.fixture(scope="module")
def folder(built: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the same weights for OpenVINO, for images of one size."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from ultralytics import YOLO

    copy = tmp_path_factory.mktemp("openvino") / "mine.pt"
    copy.write_bytes(Path(built[0]).read_bytes())
    return Path(YOLO(copy).export(format="openvino", imgsz=[96, 160], verbose=False))


def test_an_openvino_folder_finds_what_the_onnx_file_finds(folder: Path, built: Weights) -> None:
    ours, other = ExportedDetector.load(str(folder)), ExportedDetector.load(built[1])
    assert ours.classes == other.classes and ours.side == 160 and cached_export(str(folder), "nowhere") == str(folder)
    other.side, other._fixed = ours.side, ours._fixed
    rgb = scene(7, 1)
    mine, theirs = (one.detect(rgb, NAMES, conf=0.5) for one in (ours, other))
    assert 3 <= len(mine) == len(theirs)
    ious = [iou(box_mask(0, one.box), box_mask(0, two.box)) for one, two in matched(mine, theirs)]
    assert min(ious) > 0.9 and float(np.mean(ious)) > 0.97, "bfloat16 rounds differently"
    assert {one.label for one in mine} == {one.label for one in theirs}


def test_an_openvino_folder_is_data_that_a_row_may_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = MaskModels(folders=(str(folder.parent),))
    assert isinstance(models.load_detector(folder.name), ExportedDetector)
    with pytest.raises(ClipError) as error:
        MaskModels(folders=(str(folder),)).load_detector(str(folder.parent / "other"))
    assert error.value.code == "weights_not_allowed"
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ClipError, match=r"vace-batch\[openvino\]") as error:
        ExportedDetector.load(str(folder))
    assert error.value.code == "no_openvino"


@pytest.mark.parametrize("broken", ["metadata.yaml", "mine.xml", "mine.bin"])
@pytest.mark.parametrize("content", [None, b"", b"\x00[", b"- 7"])
def test_a_damaged_openvino_folder_is_refused(folder: Path, tmp_path: Path, broken: str, content: bytes | None) -> None:
    copy = tmp_path / "copy_openvino_model"
    shutil.copytree(folder, copy)
    (copy / broken).unlink() if content is None else (copy / broken).write_bytes(content)
    with pytest.raises(ClipError) as error:
        ExportedDetector.load(str(copy))
    assert error.value.code == "bad_weights"


def test_an_unknown_class_names_the_near_ones(weights: str) -> None:
    with pytest.raises(ClipError, match="near: horse"):
        ExportedDetector.load(weights.replace(".pt", ".onnx")).check_targets(["hors"])
