"""Files by URI through fsspec: local paths, file://, s3://, gs://, az://, memory://.

Two promises: a reader never sees half a file (`publish`), and of several writers of one name exactly one wins
(`create_exclusive`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_SAMPLE_BYTES = 1 << 20
_WHOLE_DIGEST_LIMIT = 64 << 20


def resolve(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. Paths are taken literally: no URL decoding, no globbing."""
    if "://" not in uri:
        return LocalFileSystem(), os.path.abspath(uri)
    if uri.startswith("file://"):
        return LocalFileSystem(), uri[len("file://") :]
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


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


def publish(uri: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, replacing what was there."""
    if not is_local(uri):
        fs, path = resolve(uri)
        fs.pipe_file(path, data)
        return
    with _beside(resolve(uri)[1]) as temporary:
        _write_durably(temporary, data)
        os.replace(temporary, resolve(uri)[1])


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
        return
    temporary = resolve(draft)[1]
    for name in (path, temporary):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file that did not exist; False when another writer was first, whose file is left alone.

    On local disks the content is written beside the name and hard-linked to it: `open(..., "xb")` is exclusive too, but
    a process killed between creating and writing would leave an empty record that looks finished.
    """
    fs, path = resolve(uri)
    if is_local(uri):
        with _beside(path) as temporary:
            _write_durably(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
            return True
    try:
        with fs.open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def list_files(uri: str) -> list[str]:
    """Paths below `uri`, relative to it, sorted; empty when there is nothing."""
    fs, path = resolve(uri)
    prefix = path.rstrip("/") + "/"
    try:
        found = fs.find(path)
    except FileNotFoundError:
        return []
    return sorted(name[len(prefix) :] for name in found if name.startswith(prefix) and not _is_temporary(name))


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
    suffix = os.path.splitext(path)[1]
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        target = os.path.join(folder, "download" + suffix)
        fs.get_file(path, target)
        yield target


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
        tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or f"{info.get('LastModified')}"
        return f"{info.get('size')}:{tag}"
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


def _is_temporary(name: str) -> bool:
    return os.path.basename(name).startswith(_TEMPORARY)


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
