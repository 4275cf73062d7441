"""Weights as ONNX models, made once by the digest of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_yolo import NAMES
from vace_batch.errors import ClipError
from vace_batch.masks.detectors import onnx_export
from vace_batch.masks.detectors.onnx_export import cached_export, export_onnx
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector


def test_an_export_is_made_once(weights: str, tmp_path: Path) -> None:
    cache = str(tmp_path)
    first = cached_export(weights, cache)
    stamp = Path(first).stat().st_mtime_ns
    assert cached_export(weights, cache) == first and Path(first).stat().st_mtime_ns == stamp
    assert cached_export(first, cache) == first
    assert ExportedDetector.load(first).classes == dict(enumerate(NAMES))
    assert [path.name for path in tmp_path.iterdir()] == [Path(first).name]


def test_other_weights_have_another_export(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def export(path: str, target: str) -> str:
        made.append(path)
        Path(target).write_bytes(b"model")
        return target

    monkeypatch.setattr(onnx_export, "export_onnx", export)
    other = tmp_path / "other.pt"
    other.write_bytes(Path(weights).read_bytes() + b"1")
    first, second = cached_export(weights, str(tmp_path)), cached_export(str(other), str(tmp_path))
    assert first != second and made == [weights, str(other)]
    renamed = tmp_path / "renamed.pt"
    renamed.write_bytes(other.read_bytes())
    assert cached_export(str(renamed), str(tmp_path)) == second and len(made) == 2, "the content counts, not the name"


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(ClipError) as error:
        export_onnx(str(tmp_path / "bad.pt"), str(tmp_path / "out" / "bad.onnx"))
    assert error.value.code == "bad_weights" and not (tmp_path / "out").exists()
