"""Find and fetch weights: local, of a hub (`hf://owner/name[@revision][/file]`) or in a store (`s3://…`, any fsspec).

A node keeps fetched files: the hub's in the hub's own cache, a store's in `storage/node_cache.py`'s.
safetensors, configurations and tokenizers only: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from vace_batch.errors import ClipError, UsageError
from vace_batch.storage import files as storage
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.listing import Entry, list_entries
from vace_batch.storage.node_cache import cached_path

_SUFFIXES = (".json", ".safetensors", ".model", ".txt")
"""Suffixes of the files that are fetched from a folder; pickles are not among them."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BLOCK_BYTES = 1 << 20
_SAMPLED_BLOCKS = 64
_HUB = re.compile(r"(?:hf://)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w.-]+))?(?:(?<=.)/(?P<file>.+))?")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A repository of the hub at a revision (None: the main branch), and a file in it."""

    repo: str
    revision: str | None
    file: str | None


def hub_place(ref: str) -> HubPlace | None:
    """Parse a hub id (`owner/name[@revision]`) or an `hf://` URI; None for anything else."""
    match = _HUB.fullmatch(ref)
    if match is None or (match["file"] and not ref.startswith("hf://")):
        return None
    return HubPlace(**match.groupdict())


def is_store(ref: str) -> bool:
    """Tell whether `ref` lies in an object store."""
    return not storage.is_local(ref) and not ref.startswith("hf://")


def without_revision(uri: str) -> str:
    """Remove the `@revision` from a hub's URI."""
    return re.sub(r"(hf://[^/]+/[^/@]+)@[^/]+", r"\1", uri)


def below(folder: str, name: str) -> str:
    """Return `name` if it is a URI or an absolute path, else its place in `folder`."""
    if "://" in name or os.path.isabs(name):
        return name
    return storage.join(folder, name) if "://" in folder else os.path.join(folder, name)


def is_there(uri: str) -> bool:
    """Tell whether a local file exists; True for other places, as asking them costs a request."""
    return not storage.is_local(uri) or os.path.isfile(storage.resolve(uri)[1])


# --- one file --------------------------------------------------------------------------------------------------------


def file_revision(uri: str) -> str:
    """Identify the content of a weights file: a digest, its commit, or its store's fingerprint.

    Raises:
        UsageError: there is no such file, or it cannot be reached.
    """
    place = hub_place(uri) if uri.startswith("hf://") else None
    if place is not None and place.file:
        return _hub_commit(uri, place, place.file)
    if is_store(uri):
        found = _asked(uri, lambda: fingerprint(uri))
        if found in ("missing", "forbidden"):
            raise UsageError(f"weights {uri}: {found}")
        return found
    if not os.path.isfile(storage.resolve(uri)[1]):
        raise UsageError(f"weights {uri}: no such file")
    digest = hashlib.blake2b(digest_size=16)
    with open(storage.resolve(uri)[1], "rb") as stream:
        for block in sampled_blocks(stream):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def local_file(uri: str, revision: str) -> Iterator[Path]:
    """Yield the local file that holds `uri` at `revision`.

    Raises:
        UsageError: the file is missing, or its content has another revision now.
        OSError: the hub or the store failed.
    """
    place = hub_place(uri) if uri.startswith("hf://") else None
    if place is not None and place.file:
        with _hub_errors(uri):
            found = hf_hub_download(place.repo, place.file, revision=revision)
        yield Path(found)
        return
    if is_store(uri):
        with _copied(uri, revision) as path:
            yield path
        return
    here = file_revision(uri)
    if here != revision:
        raise UsageError(f"weights {uri}: planned with revision {revision}, but this node has {here}")
    yield Path(storage.resolve(uri)[1])


# --- a folder in the diffusers layout --------------------------------------------------------------------------------


def folder_revision(ref: str) -> str:
    """Identify the weights of a hub's repository (its commit) or of a store's folder (a digest of its listing).

    Raises:
        UsageError: the repository or folder is missing or cannot be reached.
    """
    place = hub_place(ref)
    if place is not None:
        return _hub_commit(ref, place, "model_index.json")
    return _listing_digest(_listed(ref))


def read_text(ref: str, name: str) -> str:
    """Read a small file of a store's folder, or of a hub's repository in the local cache.

    Raises:
        FileNotFoundError: the file is missing.
    """
    place = hub_place(ref)
    if place is None:
        return storage.read_bytes(storage.join(ref, name)).decode("utf-8")
    cached = try_to_load_from_cache(place.repo, name, revision=place.revision)
    if not isinstance(cached, str):
        raise FileNotFoundError(name)
    return Path(cached).read_text(encoding="utf-8")


@contextmanager
def local_folder(ref: str, revision: str, parts: Sequence[str]) -> Iterator[Path]:
    """Yield a local folder with the `parts` (subfolders) of `ref`, of a hub or a store, at `revision`.

    Raises:
        UsageError: the folder has another revision now.
        OSError: the hub or the store failed.
    """
    place = hub_place(ref)
    if place is not None:
        wanted = ["model_index.json", *(f"{part}/*{suffix}" for part in parts for suffix in _SUFFIXES)]
        with _hub_errors(ref):
            found = snapshot_download(place.repo, revision=revision, allow_patterns=wanted)
        yield Path(found)
        return
    listed = _listed(ref)
    if (here := _listing_digest(listed)) != revision:
        raise UsageError(f"weights {ref}: planned with revision {revision}, but now it is {here}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vace-batch-")))
        for name, entry in listed.items():
            if name.split("/")[0] in parts or "/" not in name:
                link = folder / name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(stack.enter_context(_copied(storage.join(ref, name), entry.version)))
        yield folder


def _listed(ref: str) -> dict[str, Entry]:
    entries = _asked(ref, lambda: {entry.name: entry for entry in list_entries(ref)})
    found = {
        name: entry
        for name, entry in entries.items()
        if name == "model_index.json" or (name.count("/") == 1 and name.endswith(_SUFFIXES))
    }
    if not any(name.endswith(".safetensors") for name in found):
        raise UsageError(f"weights {ref}: no safetensors in the diffusers layout there{_pickle_hint(entries)}")
    return found


def _pickle_hint(names: Iterable[str]) -> str:
    """Name the pickles among a model's files; empty if there are none."""
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if not pickles:
        return ""
    return f", only pickles ({', '.join(pickles[:3])}), which can run code; `vace-batch convert` them"


def _listing_digest(listed: Mapping[str, Entry]) -> str:
    return storage.digest(*(part for name in sorted(listed) for part in (name, listed[name].version)))


@contextmanager
def _copied(uri: str, version: str) -> Iterator[Path]:
    """Yield this node's copy of a store's file, which stays while it is in use."""
    try:
        with cached_path(uri, version) as path:
            yield Path(path)
    except ClipError as error:
        raise UsageError(f"weights {uri}: planned as {version}, but {error.reason}") from error


# --- content and places -----------------------------------------------------------------------------------------------


def sampled_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's size and content; of large files 64 blocks of 1 MiB, evenly spaced, so that 14B takes seconds."""
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


def _hub_commit(ref: str, place: HubPlace, file: str) -> str:
    # A cached commit wins over the newest, so that a batch resumed next week finds its own windows again.
    cached = try_to_load_from_cache(place.repo, file, revision=place.revision)
    try:
        path = cached if isinstance(cached, str) else hf_hub_download(place.repo, file, revision=place.revision)
    except (OSError, HfHubHTTPError) as error:
        raise UsageError(
            f"model {ref}: not in the local cache, and the hub did not send it: {str(error).strip().splitlines()[0]} "
            "Download it where there is a network, or give a directory"
        ) from error
    return Path(path).parents[file.count("/")].name


@contextmanager
def _hub_errors(ref: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        raise OSError(f"weights {ref}: the hub did not send the file: {error}") from error


def _asked(ref: str, ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"weights {ref}: cannot be reached: {error}") from error
