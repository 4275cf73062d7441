from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.yolo import import_ultralytics
from vace_batch.masks.segmenters.sam import Prompt, Segmenter

SIZE = Size(213, 120)
PROMPTS = [
    Prompt(box=Box(20, 30, 60, 50)),
    Prompt(box=Box(120, 10, 80, 90)),
    Prompt(points=((50.0, 60.0, True),)),
    Prompt(box=Box(20, 30, 60, 50), points=((50.0, 60.0, True), (22.0, 31.0, False))),
]


def save_sam(name: str, path: Path) -> str:
    """The real architecture with random weights of a fixed seed."""
    import_ultralytics()
    import torch
    from ultralytics.models.sam import build

    builders: dict[str, Callable[[], Any]] = {
        "mobile_sam.pt": build.build_mobile_sam, "sam2_t.pt": build.build_sam2_t,
    }  # fmt: skip
    torch.manual_seed(0)
    torch.save(builders[name]().state_dict(), path / name)
    return str(path / name)


@pytest.mark.parametrize("name", ["mobile_sam.pt", "sam2_t.pt"])
def test_each_prompt_gets_its_own_full_resolution_mask(name: str, tmp_path: Path) -> None:
    segmenter = Segmenter.load(save_sam(name, tmp_path))
    rgb = np.random.default_rng(0).integers(0, 256, (SIZE.height, SIZE.width, 3), np.uint8)
    masks = segmenter.segment(rgb, PROMPTS, index=5)
    assert len(masks) == len(PROMPTS)
    found = [mask for mask in masks if mask is not None]
    assert len(found) >= 2
    for mask in found:
        assert mask.index == 5 and mask.box.clip(SIZE) == mask.box
    assert any(one != other for one in found for other in found)


def test_no_prompt_costs_nothing_and_an_empty_one_is_a_bug(tmp_path: Path) -> None:
    segmenter = Segmenter.load(save_sam("mobile_sam.pt", tmp_path))
    assert segmenter.segment(np.zeros((8, 8, 3), np.uint8), []) == []
    with pytest.raises(ValueError, match="expected a box or a point"):
        Prompt(points=((1.0, 1.0, False),))


def test_a_name_that_tells_no_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").touch()
    with pytest.raises(ClipError, match=r"sam2\.1_t\.pt") as error:
        Segmenter.load(str(tmp_path / "mine.pt"))
    assert error.value.code == "wrong_weights"


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    import_ultralytics()
    import torch

    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "mobile_sam.pt")
    with pytest.raises(ClipError) as error:
        Segmenter.load(str(tmp_path / "mobile_sam.pt"))
    assert error.value.code == "bad_weights"
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    mobile = Path(save_sam("mobile_sam.pt", tmp_path))
    mobile.rename(tmp_path / "sam2_t.pt")
    with pytest.raises(ClipError) as error:
        Segmenter.load(str(tmp_path / "sam2_t.pt"))
    assert error.value.code == "bad_weights"
