"""Fingerprint files and folders by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from vace_batch.storage.files import digest, is_local, resolve
from vace_batch.storage.listing import remote_entry

_WHOLE_DIGEST_LIMIT = 64 << 20

_END_BYTES = 4 << 20
"""Bytes of a large file's start and of its end that are read in full; containers keep their tables there."""

_SAMPLE_BYTES = 64 << 10
_SAMPLES = 256


def fingerprint(uri: str) -> str:
    """Return a string that changes with the content of `uri`; "missing" if no file can be read.

    Object stores: the etag, or size and time without an etag. Local files: a digest of the content up to 64 MiB, so
    that a copy on another machine has the same fingerprint; above, size, time of change, and a digest of the first and
    last 4 MiB and of 256 samples of 64 KiB between them. The inode's time (ctime) does not count, as it differs between
    copies of one file on several machines. Folders: names, sizes and times of their entries.
    """
    fs, path = resolve(uri)
    if not is_local(uri):
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return "missing"
        except PermissionError:
            return "forbidden"
        return remote_entry("", info).version
    return _local_fingerprint(path)


def _local_fingerprint(path: str) -> str:
    try:
        if os.path.isdir(path):
            return _folder_fingerprint(path)
        if not os.path.isfile(path):
            return "missing" if not os.path.lexists(path) else "special"
        stat = os.stat(path)
        with open(path, "rb") as file:
            if stat.st_size <= _WHOLE_DIGEST_LIMIT:
                whole = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                return f"{stat.st_size}:{whole.hexdigest()}"
            return f"{stat.st_size}:{stat.st_mtime_ns}:{digest(*_samples(file, stat.st_size))}"
    except (OSError, ValueError):  # a loop of links, no permission, NUL in the name: the clip's own error says
        return "missing"


def _folder_fingerprint(path: str) -> str:
    stats = [(entry.name, entry.stat()) for entry in os.scandir(path)]
    return "dir:" + digest(*sorted(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats))


def _samples(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read the start and the end of a large file, and samples between them."""
    last = max(size - _END_BYTES, _END_BYTES)
    places = [(_END_BYTES + (last - _END_BYTES) * k // _SAMPLES, _SAMPLE_BYTES) for k in range(_SAMPLES)]
    for offset, num_bytes in ((0, _END_BYTES), *places, (last, _END_BYTES)):
        file.seek(offset)
        yield file.read(num_bytes)
