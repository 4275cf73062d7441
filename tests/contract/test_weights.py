"""Weights from stores and hubs: fetched once a node, whole, at the planned revision, safetensors only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.contract.test_engine_load import one_window
from tests.s3_server import bucket, moto, seaweed, weed_binary
from vace_batch import profiles, storage, weights
from vace_batch.errors import UsageError
from vace_batch.vace.model import load
from vace_batch.vace.seeded import write_seeded

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=["moto", "seaweed"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server in a process of its own."""
    if request.param == "seaweed" and weed_binary() is None:
        pytest.skip("no SeaweedFS here")
    server = moto if request.param == "moto" else seaweed
    with server(tmp_path_factory.mktemp(request.param)) as endpoint, bucket(endpoint) as uri:
        yield uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    write_seeded(root)
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


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_model_in_a_store_gives_the_pixels_of_the_local_one(model: str, folder: Path, cache: Path) -> None:
    storage.publish(storage.join(model, "transformer/pytorch_model.bin"), b"a pickle")
    revision = profiles.revision(model)
    assert profiles.profile(model).max_tokens == profiles.profile(str(folder)).max_tokens
    loaded = load(model, device="cpu", revision=revision)
    assert loaded.revision == revision
    np.testing.assert_array_equal(one_window(loaded), one_window(load(str(folder), device="cpu")))
    assert not list(cache.rglob("*.bin")) and len(entries(cache)) == 1


def test_what_is_cached_is_not_fetched_again(model: str, cache: Path) -> None:
    revision = weights.folder_revision(model)
    first = weights.fetch_folder(model, revision)
    stamp = (first / WEIGHTS).stat().st_mtime_ns
    assert weights.fetch_folder(model, revision) == first and (first / WEIGHTS).stat().st_mtime_ns == stamp
    without = weights.fetch_folder(model, revision, ("text_encoder/*",))
    assert without != first and not (without / "text_encoder").exists() and (without / WEIGHTS).exists()


def test_another_content_is_another_revision_and_the_old_one_is_refused(model: str, folder: Path, cache: Path) -> None:
    planned = weights.folder_revision(model)
    uri = storage.join(model, WEIGHTS)
    changed = bytearray((folder / WEIGHTS).read_bytes())
    changed[-1] ^= 1
    storage.publish(uri, bytes(changed))
    assert weights.folder_revision(model) != planned
    with pytest.raises(UsageError, match=f"planned with revision {planned}, but now it is"):
        weights.fetch_folder(model, planned)
    assert entries(cache) == []


def test_a_fetch_that_was_killed_is_begun_again(model: str, folder: Path, cache: Path) -> None:
    revision = weights.folder_revision(model)
    good = weights.fetch_folder(model, revision)
    draft = good.with_suffix(".part")
    (draft / "transformer").mkdir(parents=True)
    (draft / WEIGHTS).write_bytes(b"half")
    shutil.rmtree(good)
    again = weights.fetch_folder(model, revision)
    assert (again / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes() and not draft.exists()


def test_several_at_once_fetch_once(model: str, cache: Path) -> None:
    """The lock is on an open file, so threads stand for the processes of a node."""
    revision = weights.folder_revision(model)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: weights.fetch_folder(model, revision), range(3)))
    assert len(set(found)) == 1 and entries(cache) == [found[0]]
    assert len({(folder / WEIGHTS).stat().st_ino for folder in found}) == 1


def test_one_file_from_a_store(store: str, tmp_path: Path) -> None:
    local = tmp_path / "l.safetensors"
    save_file({"a": torch.ones(2)}, local)
    uri = f"{store}/loras/l.safetensors"
    storage.publish(uri, local.read_bytes())
    revision = weights.file_revision(uri)
    assert weights.fetch_file(uri, revision).read_bytes() == local.read_bytes()
    storage.publish(uri, local.read_bytes() + b"x")
    assert weights.file_revision(uri) != revision
    with pytest.raises(UsageError, match="loras/none.safetensors: missing"):
        weights.file_revision(f"{store}/loras/none.safetensors")


def test_damage_on_the_way_is_noticed(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A download of the right size with a wrong byte is done again; one that stays wrong in new ways is refused."""
    uri, content = f"{store}/damage/a.safetensors", os.urandom(1000)
    storage.publish(uri, content)
    files = storage.resolve(uri)[0]
    original, calls = files.get_file, []

    def damaging(path: str, target: str) -> None:
        original(path, target)
        calls.append(path)
        if len(calls) <= broken:
            Path(target).write_bytes(content[:-1] + bytes([len(calls) ^ content[-1] ^ 128]))

    monkeypatch.setattr(files, "get_file", damaging)
    broken, revision = 1, weights.file_revision(uri)
    assert weights.fetch_file(uri, revision).read_bytes() == content and len(calls) == 2
    shutil.rmtree(cache)
    broken = 9
    with pytest.raises(OSError, match="came damaged three times"):
        weights.fetch_file(uri, revision)
    assert not [path for path in entries(cache) if path.suffix != ".part"]


def test_a_folder_of_pickles_says_what_to_do(store: str) -> None:
    storage.publish(f"{store}/pickles/model_index.json", b"{}")
    storage.publish(f"{store}/pickles/transformer/pytorch_model.bin", b"x")
    with pytest.raises(UsageError, match="only pickles .transformer/pytorch_model.bin., .* convert"):
        weights.folder_revision(f"{store}/pickles")
    with pytest.raises(UsageError, match="no safetensors in the diffusers layout there$"):
        weights.folder_revision(f"{store}/nothing")
    with pytest.raises(UsageError, match="model_index.json is missing"):
        profiles.profile(f"{store}/nothing")


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="weights nosuch://a/b: cannot be reached"):
        weights.folder_revision("nosuch://a/b")


def test_the_cache_keeps_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    uris = [f"memory://weights-limit/{number}.safetensors" for number in range(3)]
    for number, uri in enumerate(uris):
        storage.publish(uri, bytes([number]) * 1000)
    found = [weights.fetch_file(uri, weights.file_revision(uri)).parent for uri in uris[:2]]
    monkeypatch.setenv("VACE_BATCH_CACHE_GB", "0.0000021")
    for age, folder in zip((9000, 5000), found, strict=True):
        marker = folder / ".complete"
        os.utime(marker, (marker.stat().st_atime - age, marker.stat().st_mtime - age))
    last = weights.fetch_file(uris[2], weights.file_revision(uris[2])).parent
    assert [folder.exists() for folder in (*found, last)] == [False, True, True]


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
    assert weights.fetch_file(uri, commit).read_bytes() == b"weights"
    with pytest.raises(UsageError, match="not in the local cache"):
        weights.file_revision("hf://owner/loras@v3/wan/a.safetensors")
