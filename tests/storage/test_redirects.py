"""Test that no client follows a redirect of a store, and that the request fails at once."""

from __future__ import annotations

import importlib.util
import pkgutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import fsspec
import pytest

from tests.support.cloud_servers import AZURE_ACCOUNT, AZURE_KEY
from vace_batch.storage import files as storage
from vace_batch.storage.redirects import REPLACED

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


@contextmanager
def answering(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """Run a server that gives the same answer a few times, then 403; yield its address and its requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status if len(asked) <= 2 else 403)
            for name, value in (("Location", location), ("Content-Length", "0")):
                if value:
                    self.send_header(name, value)
            self.end_headers()

        do_GET = do_PUT = do_HEAD = do_POST = do  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{cast(tuple[str, int], server.server_address)[1]}", asked
        finally:
            server.shutdown()


@pytest.fixture(params=DRIVERS)
def scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A scheme whose driver is installed, with credentials; no client is cached for other tests."""
    name: str = request.param
    if importlib.util.find_spec(DRIVERS[name]) is None:
        pytest.skip(f"{DRIVERS[name]} is not installed")
    monkeypatch.setattr("vace_batch.storage.retry._TRIES", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google itself, by gRPC
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "tests"})
    fsspec.get_filesystem_class(name).clear_instance_cache()
    yield name
    fsspec.get_filesystem_class(name).clear_instance_cache()


@pytest.mark.parametrize(("scheme", "member"), REPLACED.items())
def test_a_driver_still_has_the_private_member_that_is_replaced(scheme: str, member: str) -> None:
    """Without the member the replacement would never be called, and redirects would be followed silently."""
    if importlib.util.find_spec(member.partition(".")[0]) is None:
        pytest.skip(f"{member.partition('.')[0]} is not installed")
    assert callable(pkgutil.resolve_name(member))


def point_to(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    account = f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{account}BlobEndpoint={server}/{AZURE_ACCOUNT};")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("target", ["http", "file"])
def test_a_store_that_redirects_elsewhere_is_not_followed(
    scheme: str, status: int, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bucket's answer must not make this machine ask another host, such as a metadata service, nor open a file."""
    (tmp_path / "secret").write_text("secret")
    with answering(200) as (private, asked):
        location = f"{private}/latest/meta-data" if target == "http" else f"file://{tmp_path}/secret"
        with answering(status, location) as (store, came):
            point_to(store, monkeypatch)
            for ask in (storage.read_bytes, storage.num_bytes):
                with pytest.raises(OSError):
                    ask(f"{scheme}://archive/clip.mp4")
        assert came and asked == []
