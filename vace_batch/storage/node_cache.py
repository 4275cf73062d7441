"""Cache remote files on this machine: each version of a file is downloaded once for all processes.

    <folder>/<digest of URI and version><suffix>      a whole file; each reader holds a shared lock on the file
    <folder>/<the same>.<bytes>.part                  a download; its writer holds an exclusive lock on the file
    <folder>/lock                                     held while old files are removed

The least recently used files are removed first; locked files stay. Locks end with their process, and a file gets its
name when it is whole, so a crash leaves nothing to repair.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vace_batch import log
from vace_batch.errors import ClipError
from vace_batch.storage import files as storage
from vace_batch.storage.fingerprints import fingerprint

FOLDER_VARIABLE = "VACE_BATCH_CACHE"
"""The folder of the cache, by default a folder of this user among the temporary files; "off" disables the cache."""

SIZE_VARIABLE = "VACE_BATCH_CACHE_GB"
"""The largest size of the cache; a fifth of the disk stays free in any case."""

_DEFAULT_GB = 64.0
_DISK_SHARE = 0.8
_PART = ".part"
_WHOLE_BYTES = 64 << 20
_LOG = log.get_logger(__name__)


@contextlib.contextmanager
def cached_path(uri: str, version: str | None = None) -> Iterator[str]:
    """Yield a local path, only for reading, with the content of `uri` at the fingerprint `version`.

    `version` None: the content of `uri` never changes.

    Raises:
        ClipError: source_changed.
        FileNotFoundError: the file does not exist.
        PermissionError: the file may not be read.
    """
    folder = None if storage.is_local(uri) else cache_folder()
    if folder is None:
        with storage.local_path(uri) as path:
            yield path
        return
    entry = _entry(folder, uri, version)
    while (held := _open_shared(entry)) is None:
        if not _fetch(uri, version, entry):
            with storage.local_path(uri) as path:
                _check_version(uri, version)
                yield path
            return
    with held:
        yield str(entry)


@contextlib.contextmanager
def open_cached(uri: str) -> Iterator[BinaryIO]:
    """Open a file whose content never changes: a cached copy, or, of a large file, the parts that are read.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    folder = None if storage.is_local(uri) else cache_folder()
    if folder is None or not (_entry(folder, uri, None).exists() or storage.num_bytes(uri) <= _WHOLE_BYTES):
        with storage.open_read(uri) as file:
            yield file
        return
    with cached_path(uri) as path, open(path, "rb") as file:
        yield file


def cache_folder() -> Path | None:
    """Return this machine's cache folder, created if missing; None if the cache is disabled."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named == "off":
        return None
    folder = Path(named or os.path.join(tempfile.gettempdir(), f"vace-batch-cache-{os.getuid()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        _LOG.warning("%s belongs to another user: no file is cached; name a folder by %s", folder, FOLDER_VARIABLE)
        return None
    return folder


def _entry(folder: Path, uri: str, version: str | None) -> Path:
    return folder / (storage.digest(uri, version or "") + os.path.splitext(uri)[1][:8])


def _open_shared(entry: Path) -> BinaryIO | None:
    """Open and lock a cached copy, and mark it as used now; None if the copy does not exist."""
    try:
        file = entry.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is_at(file, entry):  # removed before the lock
        file.close()
        return None
    os.utime(entry)
    return file


def _fetch(uri: str, version: str | None, entry: Path) -> bool:
    """Download a copy, or wait for another process's download; False if the cache has no room."""
    size = storage.num_bytes(uri)
    part = entry.with_name(f"{entry.name}.{size}{_PART}")
    with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not _is_at(file, part):
            return True  # the copy exists now, or its writer gave up: the caller tries again
        try:
            if entry.exists():
                return True
            if not _make_room(entry.parent, size, part):
                return False
            storage.fetch(uri, str(part))
            _check_version(uri, version)
            os.fsync(file.fileno())
            os.replace(part, entry)
            return True
        finally:
            if _is_at(file, part):
                part.unlink()


def _check_version(uri: str, version: str | None) -> None:
    if version is None:
        return
    now = fingerprint(uri)
    if now != version:
        reason = f"{uri} is another file than when it was planned ({now} instead of {version})"
        raise ClipError("source_changed", reason, retryable=True)


def _make_room(folder: Path, size: int, mine: Path) -> bool:
    """Remove the least recently used copies until `size` bytes fit; False if the other copies are in use."""
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copies: list[tuple[int, Path, int]] = []
        used = 0
        on_disk = 0
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                on_disk += stat.st_size
                if path.suffix != _PART:
                    used += stat.st_size
                    copies.append((stat.st_mtime_ns, path, stat.st_size))
                elif path != mine and not _removed(path):  # a live download: count its whole size
                    used += int(path.suffixes[-2][1:])
        gigabytes = float(os.environ.get(SIZE_VARIABLE) or _DEFAULT_GB)
        limit = min(gigabytes * 1e9, _DISK_SHARE * (shutil.disk_usage(folder).free + on_disk))
        for _, path, held in sorted(copies):
            if used + size <= limit:
                break
            used -= held if _removed(path) else 0
        return used + size <= limit


def _removed(path: Path) -> bool:
    """Remove a file unless it is locked; return whether the file is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def local_file(uri: str, column: str, versions: Mapping[str, str]) -> Iterator[str]:
    """Yield a local path of the file in a job's `column`, at its fingerprint in `versions`.

    Raises:
        ClipError: `not_found`, `no_permission`, `source_changed`.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(cached_path(uri, versions.get(column)))
        except FileNotFoundError:
            raise ClipError("not_found", f"{column}: no such file: {uri}") from None
        except PermissionError as error:
            raise ClipError("no_permission", f"{column}: {uri} may not be read", retryable=True) from error
        yield path
