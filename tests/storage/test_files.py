"""Test the promises of `storage.files` on a local disk and in memory."""

from __future__ import annotations

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vace_batch.storage import files as storage
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.listing import list_files


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_publish_read_list_delete(root: str) -> None:
    uri = storage.join(root, "a/b", "c.json")
    assert not storage.exists(uri) and list_files(root) == []
    storage.publish(uri, b"1")
    storage.publish(uri, b"2")
    assert storage.read_bytes(uri) == b"2" and list_files(root) == ["a/b/c.json"]
    storage.delete(uri)
    storage.delete(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)


def test_exclusive_creation_has_one_winner_a_key(tmp_path: Path) -> None:
    keys = [str(tmp_path / "ledger" / f"{k}.json") for k in range(200)]
    with ThreadPoolExecutor(8) as pool:
        wins = [list(pool.map(lambda key, w=w: storage.create_exclusive(key, b"%d" % w), keys)) for w in range(8)]
    assert sum(map(sum, wins)) == len(keys)
    assert not [name for name in os.listdir(tmp_path / "ledger") if name.startswith(".part-")]


def test_exclusive_creation_leaves_the_first_content(root: str) -> None:
    uri = storage.join(root, "x.json")
    assert storage.create_exclusive(uri, b"first") and not storage.create_exclusive(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


@pytest.mark.parametrize(
    "name", ["star*[1]?.mp4", "pct%2F..%2Fup.mp4", "new\nline.mp4", "file:proto.mp4", "café.mp4", "-i.mp4"]
)
def test_names_are_literal(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert storage.read_bytes(str(tmp_path / name)) == b"x"
    assert fingerprint(str(tmp_path / name)) != "missing"


def test_fingerprint_follows_content_not_time(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    assert fingerprint(str(path)) == "missing"
    path.write_bytes(b"one")
    first = fingerprint(str(path))
    os.utime(path, (1, 1))
    assert fingerprint(str(path)) == first
    path.write_bytes(b"two")
    assert fingerprint(str(path)) != first


def test_fingerprint_of_a_large_file_sees_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vace_batch.storage.fingerprints._WHOLE_DIGEST_LIMIT", 1000)
    path = tmp_path / "v.mp4"
    path.write_bytes(bytes(3 << 20))
    before = fingerprint(str(path))
    stat = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(5)
        file.write(b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(str(path)) != before


def test_a_large_file_whose_time_is_put_back_has_another_fingerprint(tmp_path: Path) -> None:
    path, size = tmp_path / "v.mp4", 100 << 20
    with open(path, "wb") as file:
        file.truncate(size)
    before, stat = fingerprint(str(path)), os.stat(path)
    step = size // 256
    for offset, num_bytes in (
        (0, 1),
        (size - 1, 1),
        (size - (768 << 10), 1),
        ((4 << 20) - 1, 1),
        (size - (4 << 20), 1),
        (size // 2, step),
        (size // 3, step),
    ):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(b"x" * num_bytes)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert fingerprint(str(path)) != before, f"{num_bytes} bytes at {offset}"
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(bytes(num_bytes))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert fingerprint(str(path)) == before


def test_the_fingerprint_of_a_small_file_is_its_content(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"one")
    assert fingerprint(str(path)) == "3:" + hashlib.blake2b(b"one", digest_size=16).hexdigest()


def test_fingerprint_survives_odd_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert fingerprint("/dev/zero") == "special"
    assert fingerprint(str(tmp_path / "nul\0")) == "missing"
    assert fingerprint(str(tmp_path / "loop")) in {"special", "missing"}
    assert fingerprint(str(tmp_path / "dangling")) in {"special", "missing"}


def test_staged_files_appear_whole_or_not_at_all(root: str) -> None:
    uri, draft = storage.join(root, "videos", "made.mp4"), storage.join(root, "artifacts", "1.mp4")
    with pytest.raises(RuntimeError), storage.staging(uri, draft) as path:
        Path(path).write_bytes(b"half")
        raise RuntimeError
    assert list_files(root) == [] and not storage.exists(uri)
    with storage.staging(uri, draft) as path:
        assert path.endswith(".mp4") and not storage.exists(uri)
        Path(path).write_bytes(b"video")
    with storage.local_path(uri) as path:
        assert Path(path).read_bytes() == b"video" and path.endswith(".mp4")
    assert list_files(root) == ["videos/made.mp4"]


def test_digest_keeps_parts_apart() -> None:
    assert storage.digest("ab", "c") != storage.digest("a", "bc")
