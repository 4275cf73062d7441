"""Read and write files by URI through fsspec: local paths, file://, s3://, gs://, az://, memory://.

A reader never sees half a file (`publish`), and exactly one of several writers of a name wins (`create_exclusive`).
A failed call to a store is retried for some seconds before it raises.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vace_batch.redact import has_secret, redact
from vace_batch.storage.redirects import no_redirect_options
from vace_batch.storage.retry import RetryingFileSystem, retry
from vace_batch.storage.written import add_written

_REQUESTS_AT_ONCE = 32
_memory_lock = threading.Lock()


def resolve(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of `uri` and the path in it, taken literally: no URL decoding, no globbing.

    Raises:
        ValueError: `uri` has a password, or its scheme is unknown.
        ImportError: the scheme's driver is not installed.
    """
    if "://" not in uri:
        return LocalFileSystem(), os.path.abspath(uri)
    if uri.startswith("file://"):
        return LocalFileSystem(), uri[len("file://") :]
    if has_secret(uri):
        raise ValueError(f"{redact(uri)}: expected a URI without credentials: give credentials by the environment")
    # Files of other writers must be visible: s3fs and other drivers would cache a folder's listing for ever.
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **no_redirect_options(uri.split("://", 1)[0]))
    return fs if isinstance(fs, MemoryFileSystem) else RetryingFileSystem(fs), path


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """Make a local path absolute, for processes with another working directory; any other URI stays as it is."""
    return uri if "://" in uri else os.path.abspath(uri)


def join(uri: str, *parts: str) -> str:
    """Join `uri` and `parts` with single slashes."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    fs, path = resolve(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    fs, path = resolve(uri)
    data: bytes = fs.cat_file(path)
    return data


def read_verified(uri: str, expected: str | None) -> bytes:
    """Read a whole file and compare its `digest` with `expected`; None, in records of old versions, skips the check.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the content differs from what was written, after all retries.
    """

    def read() -> bytes:
        data = read_bytes(uri)
        if expected is not None and digest(data) != expected:
            raise OSError(f"{redact(uri)}: the content differs from what was written ({len(data)} bytes were read)")
        return data

    return read() if is_local(uri) else retry(read)


def read_json(uri: str) -> Any:
    """Read a JSON file; a truncated answer is retried.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the content is not JSON, after all retries.
    """

    def read() -> Any:
        data = read_bytes(uri)
        try:
            return json.loads(data)
        except ValueError as error:
            raise OSError(f"{redact(uri)}: expected JSON, got {len(data)} bytes of something else: {error}") from error

    return read() if is_local(uri) else retry(read)


def read_head(uri: str, num_bytes: int) -> bytes:
    """Read the first bytes of a file.

    Raises:
        OSError: the file cannot be read.
    """
    fs, path = resolve(uri)
    if is_local(uri) and not os.path.isfile(path):  # a fifo would block for ever
        raise FileNotFoundError(path)
    data: bytes = fs.cat_file(path, start=0, end=num_bytes)
    return data


def open_read(uri: str) -> Any:
    """Open a seekable binary file, for readers that need only parts; the caller closes the file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    fs, path = resolve(uri)
    return open(path, "rb") if is_local(uri) else fs.open(path, "rb")


def publish(uri: str, data: bytes) -> None:
    """Write a file that appears whole or not at all; an existing file is replaced."""
    if not is_local(uri):
        fs, path = resolve(uri)
        fs.pipe_file(path, data)
        add_written(len(data))
        return
    with _beside(resolve(uri)[1]) as temporary:
        _write_durably(temporary, data)
        os.replace(temporary, resolve(uri)[1])
    add_written(len(data))


@contextlib.contextmanager
def staging(uri: str, draft: str) -> Iterator[str]:
    """Yield a local path to write; afterwards the file appears whole at `uri`, or not at all after an error.

    `draft` is the path to write when `uri` is local: a name on the same disk that no other writer uses.
    """
    fs, path = resolve(uri)
    if not is_local(uri):
        with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
            temporary = os.path.join(folder, "draft" + os.path.splitext(path)[1])
            yield temporary
            fs.put_file(temporary, path)
            retry(_check_size, fs, path, os.path.getsize(temporary))
            add_written(os.path.getsize(temporary))
        return
    temporary = resolve(draft)[1]
    for name in (path, temporary):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # the record that names the file is durable, so the file must be
        add_written(os.path.getsize(temporary))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file that does not exist yet; return False when another writer was first, and leave its file alone.

    On local disks the content is written to a temporary file and hard-linked to the name: `open(..., "xb")` is
    exclusive too, but a process killed between creating and writing would leave an empty record that looks finished.

    Writers must write different bytes: a store's client repeats a request whose answer was lost, and then finds its own
    file. The stored bytes are compared, so that the winner does not take itself for the loser.
    """
    created = _create(uri, data)
    if created:
        add_written(len(data))
    return created


def _create(uri: str, data: bytes) -> bool:
    """Create a file as `create_exclusive` does, without counting its bytes."""
    fs, path = resolve(uri)
    if is_local(uri):
        if os.path.lexists(path):
            return False
        with _beside(path) as temporary:
            _write_durably(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
            return True
    if isinstance(fs, MemoryFileSystem):  # "xb" would create the file before its content
        with _memory_lock:
            if fs.exists(path):
                return False
            fs.pipe_file(path, data)
        return True
    return retry(_create_in_store, fs, path, data) or retry(_is_mine, fs, path, data)


def _is_mine(fs: Any, path: str, data: bytes) -> bool:
    stored: bytes = fs.cat_file(path)
    if stored != data and data.startswith(stored):
        raise OSError(f"{path}: a truncated answer")
    return stored == data


def _create_in_store(fs: Any, path: str, data: bytes) -> bool:
    """Create a file in a store; two writers at once get an `OSError` (AWS: ConditionalRequestConflict), and retry."""
    try:
        if "gs" in fs.protocol:  # one request; fs.open would send the condition with the start of an upload
            fs.pipe_file(path, data, mode="create")
            return True
        with fs.open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except OSError as error:
        # s3fs translates only AWS's own form of this answer.
        if _store_code(error) == "PreconditionFailed":
            return False
        raise
    return True


def _store_code(error: BaseException) -> str | None:
    """Return the S3 error code behind an exception of s3fs."""
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def read_many(uris: Sequence[str], sizes: Sequence[int] | None = None) -> Iterator[bytes | None]:
    """Read many files, in order; None for a missing file. A store's answer must have the size given in `sizes`."""

    def read(uri: str, size: int | None = None) -> bytes | None:
        try:
            data = read_bytes(uri)
        except FileNotFoundError:
            return None
        if size not in (None, len(data)):
            raise OSError(f"{redact(uri)}: expected {size} bytes as listed, got {len(data)}")
        return data

    if all(map(is_local, uris)):
        yield from map(read, uris)
        return
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        yield from pool.map(functools.partial(retry, read), uris, sizes or [None] * len(uris))


def num_bytes(uri: str) -> int:
    """Return the size of a file; 0 for a folder.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    fs, path = resolve(uri)
    return int(fs.info(path).get("size") or 0)


def delete(uri: str) -> None:
    """Delete a file if it exists."""
    fs, path = resolve(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


@contextlib.contextmanager
def local_path(uri: str) -> Iterator[str]:
    """Yield a local path with the content of `uri`: the file itself, or a download that is removed afterwards.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    fs, path = resolve(uri)
    if is_local(uri):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        target = os.path.join(folder, "download" + os.path.splitext(path)[1])
        retry(_download, fs, path, target)
        yield target


def fetch(uri: str, target: str) -> None:
    """Download a remote file to a local path.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    retry(_download, *resolve(uri), target)


def _download(fs: Any, path: str, target: str) -> None:
    fs.get_file(path, target)
    _check_size(fs, path, os.path.getsize(target))


def _check_size(fs: Any, path: str, size: int) -> None:
    stored = fs.info(path).get("size")
    if stored is not None and stored != size:
        raise OSError(f"{path}: the store has {stored} bytes, the local file {size}")


def digest(*parts: str | bytes) -> str:
    """Return blake2b-128 over `parts`, each with its length, as 32 hex digits."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


TEMPORARY = ".part-"
"""The start of the name of a file that is being written."""


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """Yield a new temporary name in the folder of `path`; the file is removed when the writer fails."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, TEMPORARY + uuid.uuid4().hex)
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _write_durably(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
