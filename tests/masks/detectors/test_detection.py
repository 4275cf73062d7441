"""Detections: masks inside their boxes, class numbers, boxes rounded outward."""

from __future__ import annotations

import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.detection import MaskLogits, class_numbers, one_line, outward
from vace_batch.masks.detectors.yolo import import_ultralytics


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 213, 3), np.uint8)


@pytest.mark.parametrize("display", [(120, 213), (481, 853), (640, 360)])
def test_masks_are_where_the_letterbox_put_them(display: tuple[int, int]) -> None:
    """A prototype that is the distance to a circle, sampled as the network would see it."""
    height, width = display
    network = (384, 640) if width > height else (640, 384)
    scale = min(network[0] / height, network[1] / width)
    inner = round(height * scale), round(width * scale)
    pad = round((network[0] - inner[0]) / 2 - 0.1), round((network[1] - inner[1]) / 2 - 0.1)
    y, x = np.mgrid[: network[0] // 4, : network[1] // 4].astype(np.float32)
    x = ((x + 0.5) * 4 - pad[1]) * width / inner[1]
    y = ((y + 0.5) * 4 - pad[0]) * height / inner[0]
    cx, cy, radius = width * 0.4, height * 0.55, min(display) * 0.3
    prototypes = (radius - np.hypot(x - cx, y - cy))[None]
    logits = MaskLogits.of(prototypes, np.ones((1, 1), np.float32), network, display)
    box = Box(round(cx - radius) - 2, round(cy - radius) - 2, round(2 * radius) + 4, round(2 * radius) + 4)
    rows, columns = np.mgrid[box.y : box.bottom, box.x : box.right]
    true = np.hypot(columns + 0.5 - cx, rows + 0.5 - cy) <= radius
    made = logits.bits(0, box)
    assert (made & true).sum() / (made | true).sum() > 0.98


def test_in_box_masks_agree_with_the_full_frame_ones(rgb: np.ndarray) -> None:
    import_ultralytics()
    import torch
    from ultralytics.utils import ops

    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 8, 12, 20, generator=generator)
    prototypes = torch.nn.functional.interpolate(coarse, size=(96, 160), mode="bicubic")[0]
    coefficients = torch.randn(4, 8, generator=generator)
    boxes = torch.tensor([[10, 20, 500, 300], [800, 400, 853, 481], [0, 0, 853, 481], [300, 100, 340, 130]])
    full = ops.process_mask_native(prototypes, coefficients, boxes.float(), (481, 853)).numpy()
    logits = MaskLogits.of(prototypes.numpy(), coefficients.numpy(), (384, 640), (481, 853))
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        made = logits.bits(number, Box(left, top, right - left, bottom - top))
        true = full[number, top:bottom, left:right].astype(bool)
        assert (made & true).sum() / max((made | true).sum(), 1) > 0.97


def test_class_names_are_compared_without_case_and_blanks() -> None:
    classes = {3: "sports ball", 5: "Car", 9: "car"}
    assert class_numbers(["CAR ", "sports  ball"], classes, "w.pt") == [3, 5, 9]
    with pytest.raises(ClipError, match=r"w\.pt does not know 'zebra' .it knows sports ball, Car, car") as error:
        class_numbers(["car", "zebra"], classes, "folder/w.pt")
    assert error.value.code == "unknown_class"


def test_edges_are_rounded_outward_and_stay_in_the_frame() -> None:
    size = Size(100, 50)
    assert outward([1.2, 2.9, 10.1, 20.0], size) == Box(1, 2, 10, 18)
    assert outward([-5, -5, 200, 200], size) == Box(0, 0, 100, 50)
    assert outward([100, 0, 120, 10], size) is None


def test_an_error_is_one_line() -> None:
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(KeyError()) == "KeyError"
