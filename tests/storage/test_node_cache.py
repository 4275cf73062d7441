"""Test that a remote file is cached once, whole or not at all, and never removed while open."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from tests.support import s3_server
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.build import build
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.storage import node_cache
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.node_cache import FOLDER_VARIABLE, SIZE_VARIABLE, cached_path, open_cached
from vace_batch.video.writer import encode_lossless, write_clip

PROCESSES = 3


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "copies"))
    return tmp_path / "copies"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    log = tmp_path_factory.mktemp("moto")
    with s3_server.moto(log) as endpoint, s3_server.bucket(endpoint) as uri:
        yield uri, log


def put(name: str, data: bytes) -> tuple[str, str]:
    uri = f"memory://{name}"
    storage.publish(uri, data)
    return uri, fingerprint(uri)


def kept(folder: Path) -> dict[bytes, str]:
    """List the files of the cache, without the lock."""
    return {path.read_bytes(): path.name for path in folder.iterdir() if path.name != "lock"}


def run_clip(work: ClipWork) -> int:
    """Run all steps with gray frames in place of a model's, and return the number of windows."""
    plan, ledger = prepare(work, MaskModels()), Ledger(work.out)
    for planned in plan.windows:
        vcu, size = build(work, plan, planned), plan.regions[0].size
        frames = np.full((planned.window.num_frames, size.height, size.width, 3), 127, np.uint8)
        uri = ledger.artifact_uri(vcu.window_id, ".mkv")
        storage.publish(uri, encode_lossless(frames))
        ledger.commit(vcu.window_id, {"artifact": ledger.relative(uri), "seconds": 0.0, "seed": 1})
    assert stitch(work, plan)["status"] == "done"
    return len(plan.windows)


def test_a_clip_fetches_its_video_and_its_masks_once(
    bucket: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, log = bucket
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    write_clip(str(tmp_path / "a.mp4"), (picture for _ in range(60)), rate=Fraction(25))
    data = (tmp_path / "a.mp4").read_bytes()
    gets = {}
    for name in ("kept", "off"):
        if name == "off":
            monkeypatch.setenv(FOLDER_VARIABLE, "off")
        storage.publish(f"{uri}/{name}/a.mp4", data)
        box = BoxKey(x=8, y=8, width=16, height=16)
        job = Job(job_id="a", video_uri=f"{uri}/{name}/a.mp4", task="removal", boxes=(box,), background="none")
        [work] = works_of([job], f"{uri}/{name}/out", Options(crf=30), uri)
        windows = run_clip(work)
        gets[name] = [s3_server.moto_gets(log, suffix) for suffix in (f"{name}/a.mp4", "masks.parquet")]
        print(name, [(len(each), sum(each)) for each in gets[name]])
    assert windows >= 2
    assert gets["kept"][0] == [len(data)] and len(gets["kept"][1]) == 1
    assert gets["off"][0] == [len(data)] * (windows + 2)


ASK = """
import os, sys, time
from vace_batch.storage.node_cache import cached_path
time.sleep(max(0, float(sys.argv[3]) - time.time()))
with cached_path(sys.argv[1], sys.argv[2]) as path:
    print(os.path.getsize(path))
"""


def test_processes_that_ask_at_once_fetch_once(bucket: tuple[str, Path], folder: Path) -> None:
    uri, log = bucket[0] + "/many.bin", bucket[1]
    storage.publish(uri, bytes(3_000_000))
    command = [sys.executable, "-c", ASK, uri, fingerprint(uri), str(time.time() + 2)]
    askers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    assert [asker.communicate()[0] for asker in askers] == ["3000000\n"] * PROCESSES
    assert s3_server.moto_gets(log, "many.bin") == [3_000_000]
    assert list(kept(folder)) == [bytes(3_000_000)]


def test_the_least_used_goes_and_the_open_one_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, str(350 / 1e9))
    files = {name: put(f"lru/{name}.bin", name.encode() * 100) for name in "abcde"}

    def use(name: str) -> None:
        with cached_path(*files[name]) as path:
            assert Path(path).read_bytes() == name.encode() * 100
        time.sleep(0.01)

    with cached_path(*files["a"]) as path:
        for name in "bcbd":  # c was used longest ago of those that are not open
            use(name)
        assert sorted(key[:1] for key in kept(folder)) == [b"a", b"b", b"d"]
        assert Path(path).read_bytes() == b"a" * 100
    use("e")
    assert sorted(key[:1] for key in kept(folder)) == [b"b", b"d", b"e"]


def test_what_finds_no_room_is_fetched_for_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, str(350 / 1e9))
    with cached_path(*put("room/large.mp4", b"x" * 400)) as path:
        assert Path(path).read_bytes() == b"x" * 400 and path.endswith(".mp4")
        assert not Path(path).is_relative_to(folder)
    assert not Path(path).exists() and kept(folder) == {}
    with cached_path(*put("room/a", b"a" * 200)), cached_path(*put("room/b", b"b" * 200)) as path:
        assert not Path(path).is_relative_to(folder)
    assert list(kept(folder)) == [b"a" * 200]


def test_another_content_is_not_taken_for_the_planned_one(folder: Path) -> None:
    uri, planned = put("changes.bin", b"one")
    with cached_path(uri, planned) as path:
        storage.publish(uri, b"other")
        assert Path(path).read_bytes() == b"one"
    with cached_path(uri, planned) as path:  # as it was planned
        assert Path(path).read_bytes() == b"one"
    uri, planned = put("changed.bin", b"one")
    storage.publish(uri, b"other")
    for _ in range(2):
        with pytest.raises(ClipError, match="another file") as caught, cached_path(uri, planned):
            pass
        assert caught.value.code == "source_changed" and caught.value.retryable
    with pytest.raises(FileNotFoundError), cached_path("memory://not/there.bin", "missing"):
        pass
    assert list(kept(folder)) == [b"one"]


def die_half_way(uri: str, version: str, started: Barrier) -> None:
    def half(_: str, target: str) -> None:
        Path(target).write_bytes(b"ha")
        started.wait()
        time.sleep(60)

    node_cache.storage.fetch = half  # type: ignore[assignment]
    with cached_path(uri, version):
        pass


def test_a_killed_download_leaves_nothing_that_matters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, version = put("killed.bin", b"whole")
    context = multiprocessing.get_context("fork")
    started = context.Barrier(2)
    victim = context.Process(target=die_half_way, args=(uri, version, started))
    victim.start()
    started.wait()
    assert list(kept(folder)) == [b"ha"]
    monkeypatch.setenv(SIZE_VARIABLE, str(7 / 1e9))
    with cached_path(*put("other.bin", b"abc")) as path:  # what is on its way counts as whole
        assert not Path(path).is_relative_to(folder)
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    with cached_path(*put("next.bin", b"next")):
        assert list(kept(folder)) == [b"next"]
    with cached_path(uri, version) as path:
        assert Path(path).read_bytes() == b"whole"


def test_large_files_are_read_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "_WHOLE_BYTES", 100)
    for name, size in (("small", 100), ("large", 101)):
        uri, _ = put(f"parts/{name}", bytes(size))
        with open_cached(uri) as file:
            assert file.seek(size - 1) == size - 1 and file.read() == b"\0"
    assert list(kept(folder)) == [bytes(100)]


def test_nothing_is_kept_in_a_folder_of_somebody_else(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.symlink_to(tmp_path)
    with cached_path(*put("mine.bin", b"mine")) as path:
        assert not Path(path).resolve().is_relative_to(tmp_path / "copies")
    assert not list(tmp_path.glob("*.bin"))


def test_local_files_are_themselves(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    with cached_path(str(tmp_path / "a.bin"), "any") as path, open_cached(str(tmp_path / "a.bin")) as file:
        assert path == str(tmp_path / "a.bin") and file.read() == b"a"
    assert not folder.exists()
