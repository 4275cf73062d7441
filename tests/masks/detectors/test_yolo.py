from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.detectors.onnx_export import export_onnx
from vace_batch.masks.detectors.yolo import Detector, import_ultralytics

NAMES = {0: "person", 1: "sports ball", 2: "Car"}


def save_model(config: str, path: Path) -> str:
    """The real architecture with random weights of a fixed seed."""
    import_ultralytics()
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(config)
    model.model.names = dict(NAMES) | {number: f"class {number}" for number in range(3, 80)}
    model.save(path)
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    configs = ("yolo11n", "yolo11n-seg", "yolo26n-seg", "yolo11n-pose")
    return {config: save_model(f"{config}.yaml", folder / f"{config}.pt") for config in configs}


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 213, 3), np.uint8)


def test_class_names_are_those_of_the_weights(models: dict[str, str]) -> None:
    detector = Detector.load(models["yolo11n"])
    assert {number: detector.classes[number] for number in NAMES} == NAMES
    assert detector.check_targets(["CAR ", "sports  ball", "car"]) == [1, 2]


def test_an_unknown_class_names_the_near_ones(models: dict[str, str]) -> None:
    with pytest.raises(ClipError, match="'persn' .near: person.*'ball' .near: sports ball") as error:
        Detector.load(models["yolo11n"]).check_targets(["car", "persn", "ball"])
    assert error.value.code == "unknown_class"


def test_boxes_of_a_detection_model_lie_in_the_frame(models: dict[str, str], rgb: np.ndarray) -> None:
    detector = Detector.load(models["yolo11n"])
    found = detector.detect(rgb, list(NAMES.values()), conf=1e-7)
    assert found and all(detection.mask is None for detection in found)
    assert all(detection.box.clip(Size(213, 120)) == detection.box for detection in found)
    assert {detection.label for detection in found} <= set(NAMES.values())
    confidences = [detection.confidence for detection in found]
    assert confidences == sorted(confidences, reverse=True)
    assert found == detector.detect(rgb, list(NAMES.values()), conf=1e-7)
    assert detector.detect(rgb, list(NAMES.values()), conf=0.9999) == []


@pytest.mark.parametrize("name", ["yolo11n-seg", "yolo26n-seg"])
def test_masks_of_a_segmentation_model_lie_in_their_boxes(models: dict[str, str], name: str, rgb: np.ndarray) -> None:
    detector = Detector.load(models[name])
    found = detector.detect(rgb, list(detector.classes.values()), conf=1e-7, index=7)
    masks = [(detection.box, detection.mask) for detection in found if detection.mask is not None]
    assert masks
    for box, mask in masks:
        assert mask.index == 7 and mask.box.intersect(box) == mask.box


def test_no_targets_find_nothing(models: dict[str, str], rgb: np.ndarray) -> None:
    assert Detector.load(models["yolo11n"]).detect(rgb, [], conf=1e-7) == []


def test_weights_of_another_task_are_refused(models: dict[str, str]) -> None:
    with pytest.raises(ClipError, match="pose") as error:
        Detector.load(models["yolo11n-pose"])
    assert error.value.code == "wrong_weights"


@pytest.mark.parametrize("content", [b"", b"\x89PNG not weights", pickle.dumps({"model": 1})])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ClipError) as error:
        Detector.load(str(tmp_path / "w.pt"))
    assert error.value.code == "bad_weights"


def test_a_truncated_file_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(Path(models["yolo11n"]).read_bytes()[:100_000])
    with pytest.raises(ClipError) as error:
        Detector.load(str(tmp_path / "w.pt"))
    assert error.value.code == "bad_weights"


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    import_ultralytics()
    import torch

    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "w.pt")
    assert zipfile.is_zipfile(tmp_path / "w.pt")
    with pytest.raises(ClipError) as error:
        Detector.load(str(tmp_path / "w.pt"))
    assert error.value.code == "bad_weights"
    assert not (tmp_path / "ran").exists()


def test_a_name_that_is_no_file_is_not_fetched() -> None:
    with pytest.raises(ClipError) as error:
        Detector.load("yolo11n.pt")
    assert error.value.code == "weights_not_found"


def test_a_name_that_ultralytics_would_change_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "it's.pt").write_bytes(Path(models["yolo11n"]).read_bytes())
    with pytest.raises(ClipError, match="rename"):
        Detector.load(str(tmp_path / "it's.pt"))


def test_an_open_vocabulary_takes_any_name_once_it_is_told(tmp_path: Path, rgb: np.ndarray) -> None:
    import_ultralytics()
    import torch
    from ultralytics import YOLOE

    YOLOE("yoloe-11n-seg.yaml").save(tmp_path / "open.pt")
    detector = Detector.load(str(tmp_path / "open.pt"))
    with pytest.raises(ClipError) as error:  # its text encoder is a package and a download of its own
        detector.check_targets(["red  car", "dog"])
    assert error.value.code == "no_text_encoder"
    embeddings = torch.nn.functional.normalize(
        torch.randn(1, 2, 512, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    detector._model.set_classes(["red car", "dog"], embeddings)
    detector.classes = {0: "red car", 1: "dog"}
    assert detector.check_targets(["red  car", "dog"]) == [0, 1]
    assert {one.label for one in detector.detect(rgb, ["red car", "dog"], conf=1e-7)} <= {"red car", "dog"}
    with pytest.raises(ClipError) as error:
        export_onnx(str(tmp_path / "open.pt"), str(tmp_path / "open.onnx"))
    assert error.value.code == "export_failed" and not (tmp_path / "open.onnx").exists()
