"""Weights that would run code when they are unpickled: refused, and nothing has run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vace_batch.errors import ClipError
from vace_batch.masks.detectors.yolo import Detector
from vace_batch.masks.segmenters.sam import Segmenter


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


def as_archive(content: object, path: Path) -> None:
    torch.save(content, path)


def as_old_form(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [as_archive, as_old_form, as_bare_pickle])
@pytest.mark.parametrize(
    ("load", "name"), [(Detector.load, "yolo11n.pt"), (Segmenter.load, "mobile_sam.pt"), (Segmenter.load, "sam2_t.pt")]
)
def test_nothing_runs(
    load: Callable[[str], object], name: str, write: Callable[[object, Path], None], tmp_path: Path
) -> None:
    mark, weights = tmp_path / "ran", tmp_path / name
    write({"model": Hostile(mark), "ema": None, "train_args": {}}, weights)
    with pytest.raises(ClipError) as error:
        load(str(weights))
    assert error.value.code == "bad_weights" and not mark.exists()


def test_the_weights_would_run_code_where_anybody_let_them(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "ran"), tmp_path / "w.pt")
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert (tmp_path / "ran").exists()
