from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vace_batch.errors import ClipError
from vace_batch.masks.detectors.yolo import download_release, import_ultralytics
from vace_batch.masks.weights import find_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "allowed").mkdir()
    for name in ("allowed/mine.pt", "default.pt", "secret.pt"):
        (tmp_path / name).touch()
    return tmp_path


def code_of(name: str, **options: object) -> str:
    with pytest.raises(ClipError) as error:
        find_weights(name, **options)  # type: ignore[arg-type]
    return error.value.code


def test_the_configured_weights_by_path_and_by_name(folder: Path) -> None:
    default = str(folder / "default.pt")
    assert find_weights(default, configured=default) == find_weights("default.pt", configured=default) == default


def test_weights_of_an_allowed_folder_by_path_and_by_name(folder: Path) -> None:
    mine = folder / "allowed" / "mine.pt"
    mine = mine.with_suffix(".onnx")
    mine.touch()
    for name in (str(mine), "mine.onnx"):
        assert Path(find_weights(name, configured=None, folders=[str(mine.parent)])) == mine.resolve()


@pytest.mark.parametrize("name", ["mine.pt", "mine.engine", "mine.onnx.pt", "MINE"])
def test_a_pickle_that_a_row_names_must_be_allowed_by_its_digest(folder: Path, name: str) -> None:
    mine = folder / "allowed" / name
    mine.write_bytes(b"content")
    digest, places = hashlib.sha256(b"content").hexdigest(), [str(mine.parent)]
    assert find_weights(name, configured=None, folders=places, pickles=["0" * 64, digest]) == str(mine)
    with pytest.raises(ClipError, match=f"--allow-pickle {digest}"):
        find_weights(name, configured=None, folders=places, pickles=["0" * 64])
    mine.write_bytes(b"another")
    assert code_of(name, configured=None, folders=places, pickles=[digest]) == "weights_not_allowed"
    assert find_weights(name, configured=str(mine)) == str(mine)  # who starts the run has named it


def test_nothing_else_is_opened(folder: Path) -> None:
    allowed = [str(folder / "allowed")]
    (folder / "allowed" / "link.pt").symlink_to(folder / "secret.pt")
    default = str(folder / "default.pt")
    for name in ("../secret.pt", str(folder / "secret.pt"), "link.pt"):
        assert code_of(name, configured=default, folders=allowed) == "weights_not_allowed"
    assert code_of("mine.pt", configured=None) == "weights_not_allowed"
    assert code_of("https://example.com/mine.pt", configured=None) == "weights_not_allowed"


def test_missing_weights(folder: Path) -> None:
    assert code_of("none.pt", configured=None, folders=[str(folder / "allowed")]) == "weights_not_found"
    gone = str(folder / "gone.pt")
    assert code_of(gone, configured=gone) == "weights_not_found"


def test_only_releases_are_ever_fetched(tmp_path: Path) -> None:
    with pytest.raises(ClipError) as error:
        download_release("yolo-of-somebody.pt", str(tmp_path / "cache"))
    assert error.value.code == "weights_not_found"
    assert not (tmp_path / "cache").exists()


def test_a_release_that_is_here_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "yolo11n.pt").write_bytes(b"here")
    assert download_release("yolo11n.pt", str(tmp_path)) == str(tmp_path / "yolo11n.pt")
    assert (tmp_path / "yolo11n.pt").read_bytes() == b"here"


def test_ultralytics_is_offline_and_loads_without_running_code() -> None:
    import_ultralytics()
    from ultralytics import utils

    assert os.environ["ULTRALYTICS_SAFE_LOAD"] == "true"
    assert utils.SAFE_LOAD and not utils.ONLINE and not utils.AUTOINSTALL and not utils.VERBOSE


def test_other_packages_keep_their_functions() -> None:
    """Runs in its own process: other tests may have imported ultralytics."""
    code = """
import cv2, numpy, torch
from PIL import Image
before = Image.open, cv2.imread, torch.save, numpy.get_printoptions()
from vace_batch.masks.detectors.yolo import import_ultralytics
import_ultralytics()
import ultralytics
assert before == (Image.open, cv2.imread, torch.save, numpy.get_printoptions())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
