"""Files by URI through fsspec: local paths, file://, s3://, gs://, az://, memory://.

Two promises: a reader never sees half a file (`publish`), and of several writers of one name exactly one wins
(`create_exclusive`). A store's call that fails is tried again for some seconds before anybody hears of it.
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
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vace_batch.redact import has_secret, redact
from vace_batch.storage.redirects import no_redirect_options
from vace_batch.storage.retry import RetryingFileSystem, retry
from vace_batch.storage.written import add_written

_SAMPLE_BYTES = 1 << 20
_WHOLE_DIGEST_LIMIT = 64 << 20
_REQUESTS_AT_ONCE = 32
_LISTED_AS_ONE = 64
_memory_lock = threading.Lock()


def resolve(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. Paths are taken literally: no URL decoding, no globbing.

    Raises:
        ValueError: there is a password in it, or its scheme is not known.
        ImportError: the scheme's driver is not installed.
    """
    if "://" not in uri:
        return LocalFileSystem(), os.path.abspath(uri)
    if uri.startswith("file://"):
        return LocalFileSystem(), uri[len("file://") :]
    if has_secret(uri):
        raise ValueError(f"{redact(uri)}: expected no credentials in a URI; give them by the environment")
    # Other writers' files must be seen: s3fs and others would remember a folder's listing for ever.
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **no_redirect_options(uri.split("://", 1)[0]))
    return fs if isinstance(fs, MemoryFileSystem) else RetryingFileSystem(fs), path


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def join(uri: str, *parts: str) -> str:
    """`uri` and `parts` with single slashes between them."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    fs, path = resolve(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, path = resolve(uri)
    data: bytes = fs.cat_file(path)
    return data


def read_verified(uri: str, expected: str | None) -> bytes:
    """The whole file, whose `digest` must be `expected`; None, of records before there were digests, is not looked at.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is not what was written, however often it is read.
    """

    def read() -> bytes:
        data = read_bytes(uri)
        if expected is not None and digest(data) != expected:
            raise OSError(f"{redact(uri)}: its content is not what was written ({len(data)} bytes were read)")
        return data

    return read() if is_local(uri) else retry(read)


def read_json(uri: str) -> Any:
    """The JSON object in a file; half an answer is asked again.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is no JSON, however often it is read.
    """

    def read() -> Any:
        data = read_bytes(uri)
        try:
            return json.loads(data)
        except ValueError as error:
            raise OSError(f"{redact(uri)}: expected JSON, got {len(data)} bytes that are not: {error}") from error

    return read() if is_local(uri) else retry(read)


def read_head(uri: str, num_bytes: int) -> bytes:
    """The first bytes of the file.

    Raises:
        OSError: it cannot be read.
    """
    fs, path = resolve(uri)
    if is_local(uri) and not os.path.isfile(path):  # a fifo would block for ever
        raise FileNotFoundError(path)
    data: bytes = fs.cat_file(path, start=0, end=num_bytes)
    return data


def open_read(uri: str) -> Any:
    """A binary file object at `uri` that can seek, for readers that take what they need; close it.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, path = resolve(uri)
    return open(path, "rb") if is_local(uri) else fs.open(path, "rb")


def publish(uri: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, replacing what was there."""
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
    """A local path to write a file to; at the end it appears whole under `uri`, after an error not at all.

    `draft` is where it is written when `uri` is local: a name of the writer's own on the same disk.
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
            os.fsync(file.fileno())  # the record that names it is durable, so it must be
        add_written(os.path.getsize(temporary))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file that did not exist; False when another writer was first, whose file is left alone.

    On local disks the content is written beside the name and hard-linked to it: `open(..., "xb")` is exclusive too, but
    a process killed between creating and writing would leave an empty record that looks finished.

    Writers must write different bytes: a store's client repeats a request whose answer was lost, and finds its own file
    there. What is there is compared, so that the winner does not think that it lost.
    """
    created = _create(uri, data)
    if created:
        add_written(len(data))
    return created


def _create(uri: str, data: bytes) -> bool:
    """As `create_exclusive`, not counted."""
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
    if isinstance(fs, MemoryFileSystem):  # its "xb" makes the file before its content
        with _memory_lock:
            if fs.exists(path):
                return False
            fs.pipe_file(path, data)
        return True
    return retry(_create_in_store, fs, path, data) or retry(_is_mine, fs, path, data)


def _is_mine(fs: Any, path: str, data: bytes) -> bool:
    stored: bytes = fs.cat_file(path)
    if stored != data and data.startswith(stored):
        raise OSError(f"{path}: half an answer")
    return stored == data


def _create_in_store(fs: Any, path: str, data: bytes) -> bool:
    """Where two come at once AWS asks both to come again (ConditionalRequestConflict): an `OSError`, tried again."""
    try:
        if "gs" in fs.protocol:  # one request with its condition; opened, gcsfs puts it to the start of an upload
            fs.pipe_file(path, data, mode="create")
            return True
        with fs.open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except OSError as error:
        # s3fs knows only AWS's own form of this answer.
        if _store_code(error) == "PreconditionFailed":
            return False
        raise
    return True


def _store_code(error: BaseException) -> str | None:
    """The S3 error code behind what s3fs raised."""
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def list_files(uri: str) -> list[str]:
    """Paths below `uri`, relative to it, sorted; empty when there is nothing."""
    return sorted(entry.name for entry in list_entries(uri) if not entry.is_temporary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file below a folder: its path in it, when it was written, and a word that changes with its content."""

    name: str
    size: int
    modified_s: float
    version: str

    @property
    def is_temporary(self) -> bool:
        """Whether it was left by a writer that was killed, or is being written now."""
        return os.path.basename(self.name).startswith(_TEMPORARY)


def list_entries(uri: str, prefix: str = "") -> Iterator[Entry]:
    """Files below `uri`, in no order, whose own name begins with `prefix`; temporary ones too. Never from a cache.

    In an object store a folder with many subfolders is listed by many requests at once.
    """
    fs, path = resolve(uri)
    root = path.rstrip("/")
    if is_local(uri):
        yield from _local_entries(root, "", prefix)
        return
    try:
        folders = [info["name"] for info in fs.ls(root, detail=True) if info["type"] == "directory"]
        if len(folders) < _LISTED_AS_ONE:
            listings: Iterator[dict[str, Any]] = iter([fs.find(root, detail=True)])
        else:
            listings = _find_all(fs, folders, prefix)
        for listing in listings:
            for name, info in listing.items():
                if info["type"] == "file" and os.path.basename(name).startswith(prefix):
                    yield _remote_entry(name[len(root) + 1 :], info)
    except FileNotFoundError:
        return


def _find_all(fs: Any, folders: Sequence[str], prefix: str) -> Iterator[dict[str, Any]]:
    narrow = {} if isinstance(fs, MemoryFileSystem) else {"prefix": prefix}
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        yield from pool.map(lambda folder: fs.find(folder, detail=True, **narrow), folders)


def _local_entries(folder: str, below: str, prefix: str) -> Iterator[Entry]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _local_entries(entry.path, below + entry.name + "/", prefix)
            elif entry.name.startswith(prefix):
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # gone since
                    continue
                version = f"{stat.st_mtime_ns}-{stat.st_size}"
                yield Entry(
                    name=below + entry.name, size=stat.st_size, modified_s=stat.st_mtime_ns / 1e9, version=version
                )


_TAGS = ("ETag", "etag", "md5Hash")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


def _remote_entry(name: str, info: dict[str, Any]) -> Entry:
    when = next((info[key] for key in _TIMES if info.get(key) is not None), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    tag = next((info[key] for key in _TAGS if info.get(key)), when)
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    return Entry(name=name, size=int(info.get("size") or 0), modified_s=seconds, version=f"{tag}-{info.get('size')}")


def read_many(uris: Sequence[str], sizes: Sequence[int] | None = None) -> Iterator[bytes | None]:
    """The content of each, in order; None for one that is not there. A store's answer has its size in `sizes`."""

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
    """The size of a file; 0 for a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, path = resolve(uri)
    return int(fs.info(path).get("size") or 0)


def delete(uri: str) -> None:
    """Remove a file; nothing happens when there is none."""
    fs, path = resolve(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


@contextlib.contextmanager
def local_path(uri: str) -> Iterator[str]:
    """A local path that holds the content of `uri`: the file itself, or a download that is removed at the end.

    Raises:
        FileNotFoundError: there is no such object.
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
    """Download a remote file to a local path, in one go.

    Raises:
        FileNotFoundError: there is no such object.
    """
    retry(_download, *resolve(uri), target)


def _download(fs: Any, path: str, target: str) -> None:
    fs.get_file(path, target)
    _check_size(fs, path, os.path.getsize(target))


def _check_size(fs: Any, path: str, size: int) -> None:
    stored = fs.info(path).get("size")
    if stored is not None and stored != size:
        raise OSError(f"{path}: the store has {stored} bytes, here are {size}")


def digest(*parts: str | bytes) -> str:
    """blake2b-128 over `parts`, each with its length, as 32 hex digits."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def fingerprint(uri: str) -> str:
    """A string that changes when the content of `uri` does; "missing" when there is nothing to read.

    Object stores: etag (or size and time where there is none). Local files: a digest of the content up to 64 MiB, so
    that a copy on another machine is the same; above, of samples from start to end with size and time of change.
    Folders: names, sizes and times of what is in them.
    """
    fs, path = resolve(uri)
    if not is_local(uri):
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return "missing"
        except PermissionError:
            return "forbidden"
        return _remote_entry("", info).version
    return _local_fingerprint(path)


def _local_fingerprint(path: str) -> str:
    try:
        if os.path.isdir(path):
            stats = [(entry.name, entry.stat()) for entry in os.scandir(path)]
            return "dir:" + digest(*sorted(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats))
        if not os.path.isfile(path):
            return "missing" if not os.path.lexists(path) else "special"
        stat = os.stat(path)
        with open(path, "rb") as file:
            if stat.st_size <= _WHOLE_DIGEST_LIMIT:
                return (
                    f"{stat.st_size}:{hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()}"
                )
            samples = []
            for offset in (0, *(stat.st_size * k // 16 for k in range(1, 16)), stat.st_size - _SAMPLE_BYTES):
                file.seek(offset)
                samples.append(file.read(_SAMPLE_BYTES // 4))
            return f"{stat.st_size}:{stat.st_mtime_ns}:{digest(*samples)}"
    except (OSError, ValueError):  # loops of links, no permission, NUL in the name: the clip's own error says which
        return "missing"


_TEMPORARY = ".part-"


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """A fresh name in the folder of `path`, gone again when the writer fails."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, _TEMPORARY + uuid.uuid4().hex)
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
