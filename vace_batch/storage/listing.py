"""List the files below a folder or bucket prefix, never from a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from vace_batch.storage.files import TEMPORARY, is_local, resolve

_REQUESTS_AT_ONCE = 32
_LISTED_AS_ONE = 64


def list_files(uri: str) -> list[str]:
    """List the files below `uri` as sorted relative paths; empty if the folder does not exist."""
    return sorted(entry.name for entry in list_entries(uri) if not entry.is_temporary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file below a folder: its relative path, size, time of change, and a version that changes with its content."""

    name: str
    size: int
    modified_s: float
    version: str

    @property
    def is_temporary(self) -> bool:
        """Whether the file is being written, or was left by a killed writer."""
        return os.path.basename(self.name).startswith(TEMPORARY)


def list_entries(uri: str, prefix: str = "") -> Iterator[Entry]:
    """List the files below `uri` whose base name starts with `prefix`, temporary files too, unordered and uncached.

    In an object store, a folder with many subfolders is listed by many parallel requests.
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
                    yield remote_entry(name[len(root) + 1 :], info)
    except FileNotFoundError:
        return


def find_entry(uri: str) -> Entry | None:
    """Look at one file, never in a cache; None if no file has that name."""
    fs, path = resolve(uri)
    if not is_local(uri):
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return None
        return remote_entry(os.path.basename(path), info) if info["type"] == "file" else None
    try:
        return _local_entry(os.path.basename(path), os.stat(path)) if os.path.isfile(path) else None
    except FileNotFoundError:  # gone since
        return None


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
                yield _local_entry(below + entry.name, stat)


def _local_entry(name: str, stat: os.stat_result) -> Entry:
    version = f"{stat.st_mtime_ns}-{stat.st_size}"
    return Entry(name=name, size=stat.st_size, modified_s=stat.st_mtime_ns / 1e9, version=version)


_TAGS = ("ETag", "etag", "md5Hash")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


def remote_entry(name: str, info: dict[str, Any]) -> Entry:
    when = next((info[key] for key in _TIMES if info.get(key) is not None), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    tag = next((info[key] for key in _TAGS if info.get(key)), when)
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    return Entry(name=name, size=int(info.get("size") or 0), modified_s=seconds, version=f"{tag}-{info.get('size')}")
