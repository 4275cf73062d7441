"""Where weights lie: a local place, a hub (`hf://owner/name[@revision][/file]`), or a store (`s3://…`, any fsspec).

What is fetched is kept on each node. safetensors, configurations and tokenizers only: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vace_batch import storage
from vace_batch.errors import UsageError

_BLOCK_BYTES = 1 << 20
_SAMPLED_BLOCKS = 64
_REVISION = re.compile(r"(hf://[^/]+/[^/@]+)@([^/]+)")


def without_revision(uri: str) -> str:
    """`uri` without the `@revision` that a hub's may have."""
    return _REVISION.sub(r"\1", uri)


def below(folder: str, name: str) -> str:
    """`name` as it is when it says itself where it lies, else in `folder`."""
    if "://" in name or os.path.isabs(name):
        return name
    return storage.join(folder, name) if "://" in folder else os.path.join(folder, name)


def is_there(uri: str) -> bool:
    """Whether there is a local file; of other places True, as asking them costs a request."""
    return not storage.is_local(uri) or os.path.isfile(storage.resolve(uri)[1])


def file_revision(uri: str) -> str:
    """What identifies the content of a file of weights: a digest of it, or what its store says.

    Raises:
        UsageError: there is no such file.
    """
    if storage.is_local(uri):
        path = storage.resolve(uri)[1]
        if not os.path.isfile(path):
            raise UsageError(f"weights {uri}: no such file")
        digest = hashlib.blake2b(digest_size=16)
        with open(path, "rb") as stream:
            for block in sampled_blocks(stream):
                digest.update(block)
        return digest.hexdigest()
    raise UsageError(f"weights {uri}: expected a local file")


def fetch_file(uri: str, revision: str) -> Path:
    """The local file that holds `uri` at `revision`.

    Raises:
        UsageError: there is no such file, or it is another one by now.
    """
    found = file_revision(uri)
    if found != revision:
        raise UsageError(f"weights {uri}: planned with revision {revision}, but here it is {found}")
    return Path(storage.resolve(uri)[1])


def sampled_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """The size of a file and its content; of large ones 64 blocks of 1 MiB, evenly spaced: 14B takes seconds."""
    size = stream.seek(0, 2)
    yield size.to_bytes(8, "little")
    if size <= _SAMPLED_BLOCKS * _BLOCK_BYTES:
        starts = list(range(0, size, _BLOCK_BYTES))
    else:
        last = _SAMPLED_BLOCKS - 1
        starts = [k * (size - _BLOCK_BYTES) // last for k in range(_SAMPLED_BLOCKS)]
    for start in starts:
        stream.seek(start)
        yield stream.read(_BLOCK_BYTES)
