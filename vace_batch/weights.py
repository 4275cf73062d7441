"""Where weights lie: a local place, a hub (`hf://owner/name[@revision][/file]`), or a store (`s3://…`, any fsspec).

What a node fetches it keeps: the hub's files in the hub's own cache, a store's in `VACE_BATCH_CACHE`
(~/.cache/vace-batch), of at most `VACE_BATCH_CACHE_GB` where that is set. safetensors, configurations and tokenizers
only: a pickle can run code.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, TypeVar

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from vace_batch import storage
from vace_batch.errors import UsageError
from vace_batch.log import get_logger

PATTERNS = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt")
"""What is fetched of a folder: never pickles."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BLOCK_BYTES = 1 << 20
_SAMPLED_BLOCKS = 64
_COMPLETE = ".complete"
_RECENT_S = 3600.0
_HUB = re.compile(r"(?:hf://)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w.-]+))?(?:(?<=.)/(?P<file>.+))?")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?-\d+')
_LOG = get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A repository of the hub, at a revision (None: its main branch), and a file in it."""

    repo: str
    revision: str | None
    file: str | None


def hub_place(ref: str) -> HubPlace | None:
    """What a hub id (`owner/name[@revision]`) or an `hf://` URI names; None for anything else."""
    match = _HUB.fullmatch(ref)
    if match is None or (match["file"] and not ref.startswith("hf://")):
        return None
    return HubPlace(**match.groupdict())


def is_store(ref: str) -> bool:
    """Whether `ref` lies in an object store."""
    return not storage.is_local(ref) and not ref.startswith("hf://")


def without_revision(uri: str) -> str:
    """`uri` without the `@revision` that a hub's may have."""
    return re.sub(r"(hf://[^/]+/[^/@]+)@[^/]+", r"\1", uri)


def below(folder: str, name: str) -> str:
    """`name` as it is when it says itself where it lies, else in `folder`."""
    if "://" in name or os.path.isabs(name):
        return name
    return storage.join(folder, name) if "://" in folder else os.path.join(folder, name)


def is_there(uri: str) -> bool:
    """Whether there is a local file; of other places True, as asking them costs a request."""
    return not storage.is_local(uri) or os.path.isfile(storage.resolve(uri)[1])


# --- one file --------------------------------------------------------------------------------------------------------


def file_revision(uri: str) -> str:
    """What identifies the content of a file of weights: a digest of it, its commit, or what its store says of it.

    Raises:
        UsageError: there is no such file, or it cannot be reached.
    """
    place = hub_place(uri) if uri.startswith("hf://") else None
    if place is not None and place.file:
        return _hub_commit(uri, place, place.file)
    if is_store(uri):
        found = _asked(uri, lambda: storage.fingerprint(uri))
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


def fetch_file(uri: str, revision: str) -> Path:
    """The local file that holds `uri` at `revision`.

    Raises:
        UsageError: there is no such file, or it is another one by now.
        OSError: the hub or the store failed.
    """
    place = hub_place(uri) if uri.startswith("hf://") else None
    if place is not None and place.file:
        with _hub_errors(uri):
            return Path(hf_hub_download(place.repo, place.file, revision=revision))
    if is_store(uri):
        folder, name = uri.rsplit("/", 1)
        return _fetched(uri, revision, {name: storage.join(folder, name)}, lambda: file_revision(uri)) / name
    found = file_revision(uri)
    if found != revision:
        raise UsageError(f"weights {uri}: planned with revision {revision}, but here it is {found}")
    return Path(storage.resolve(uri)[1])


# --- a folder in the diffusers layout --------------------------------------------------------------------------------


def folder_revision(ref: str) -> str:
    """What identifies the weights in a hub's repository (its commit) or in a store's folder (a digest of its listing).

    Raises:
        UsageError: there is none, or it cannot be reached.
    """
    place = hub_place(ref)
    if place is not None:
        return _hub_commit(ref, place, "model_index.json")
    listed = _listed(ref, ())
    return storage.digest(*(part for name in sorted(listed) for part in (name, listed[name].version)))


def read_text(ref: str, name: str) -> str:
    """A small file of a store's folder, or of a hub's repository as far as it is in the local cache.

    Raises:
        FileNotFoundError: there is none.
    """
    place = hub_place(ref)
    if place is None:
        return storage.read_bytes(storage.join(ref, name)).decode("utf-8")
    cached = try_to_load_from_cache(place.repo, name, revision=place.revision)
    if not isinstance(cached, str):
        raise FileNotFoundError(name)
    return Path(cached).read_text(encoding="utf-8")


def fetch_folder(ref: str, revision: str, leave_out: Sequence[str] = ()) -> Path:
    """The local folder that holds `ref` at `revision`, without what the patterns `leave_out` name.

    Raises:
        UsageError: it is another one by now.
        OSError: the hub or the store failed.
    """
    place = hub_place(ref)
    if place is not None:
        with _hub_errors(ref):
            found = snapshot_download(
                place.repo, revision=revision, allow_patterns=list(PATTERNS), ignore_patterns=list(leave_out)
            )
        return Path(found)
    files = {name: storage.join(ref, name) for name in _listed(ref, leave_out)}
    return _fetched(ref, revision, files, lambda: folder_revision(ref), *leave_out)


def _listed(ref: str, leave_out: Sequence[str]) -> dict[str, storage.Entry]:
    entries = _asked(ref, lambda: {entry.name: entry for entry in storage.list_entries(ref)})
    found = {
        name: entry
        for name, entry in entries.items()
        if any(fnmatch(name, pattern) for pattern in PATTERNS) and not any(fnmatch(name, out) for out in leave_out)
    }
    if not any(name.endswith(".safetensors") for name in found):
        pickles = sorted(name for name in entries if name.endswith(_PICKLES))
        hint = f", only pickles ({', '.join(pickles[:3])}), which can run code; `vace-batch convert` them"
        hint = hint if pickles else ""
        raise UsageError(f"weights {ref}: no safetensors in the diffusers layout there{hint}")
    return found


# --- fetching --------------------------------------------------------------------------------------------------------


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


def cache_folder() -> Path:
    """Where this node keeps what it fetches from stores."""
    return Path(os.environ.get("VACE_BATCH_CACHE") or Path.home() / ".cache" / "vace-batch")


def _fetched(ref: str, revision: str, files: Mapping[str, str], now: Callable[[], str], *more: str) -> Path:
    """The folder in the cache with `files` (name: URI) of `ref`; of several processes one fetches, the others wait."""
    folder = cache_folder() / storage.digest(ref, revision, *more)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not (folder / _COMPLETE).exists():
            draft = folder.with_suffix(".part")
            shutil.rmtree(draft, ignore_errors=True)  # of one that was killed
            for name, uri in files.items():
                _download(uri, draft / name)
            found = now()
            if found != revision:
                shutil.rmtree(draft)
                raise UsageError(f"weights {ref}: planned with revision {revision}, but now it is {found}")
            (draft / _COMPLETE).touch()
            draft.rename(folder)
            _make_room(folder)
        os.utime(folder / _COMPLETE)
    return folder


def _download(uri: str, target: Path) -> None:
    """Fetch one file whole. A store's tag that is a digest of the content must be met, or the same bytes come twice:
    with some kinds of encryption a tag only looks like a digest.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fs, path = storage.resolve(uri)
    match = _MD5.fullmatch(storage.fingerprint(uri))
    before = None
    for _ in range(3):
        started = time.monotonic()
        fs.get_file(path, str(target))
        if target.stat().st_size != storage.num_bytes(uri):
            continue
        with target.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if match is None or found in (match[1], before):
            _LOG.info("fetched %s in %.1f s", uri, time.monotonic() - started)
            return
        before = found
    raise OSError(f"weights {uri}: came damaged three times")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing gives it back, and so does dying


def _make_room(kept: Path) -> None:
    """Remove what was not used for longest, until the cache is below its limit; nothing of the last hour."""
    limit = os.environ.get("VACE_BATCH_CACHE_GB")
    if not limit:
        return
    used = {marker.parent: marker.stat().st_mtime for marker in kept.parent.glob("*/" + _COMPLETE)}
    sizes = {folder: sum(file.stat().st_size for file in folder.rglob("*")) for folder in used}
    for folder in sorted(used, key=used.__getitem__):
        if sum(sizes.values()) <= float(limit) * 1e9 or used[folder] > time.time() - _RECENT_S:
            return
        _LOG.info("removing %s from the cache", folder)
        with suppress(FileNotFoundError):
            (folder / _COMPLETE).unlink()
            shutil.rmtree(folder)
        del sizes[folder]


def _hub_commit(ref: str, place: HubPlace, file: str) -> str:
    # What is cached wins over what is newest, so that a batch resumed next week finds its own windows again.
    cached = try_to_load_from_cache(place.repo, file, revision=place.revision)
    try:
        path = cached if isinstance(cached, str) else hf_hub_download(place.repo, file, revision=place.revision)
    except (OSError, HfHubHTTPError) as error:
        raise UsageError(
            f"model {ref}: not in the local cache, and the hub did not give it: {str(error).strip().splitlines()[0]} "
            "Download it where there is a network, or give a directory"
        ) from error
    return Path(path).parents[file.count("/")].name


@contextmanager
def _hub_errors(ref: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        raise OSError(f"weights {ref}: the hub did not give it: {error}") from error


def _asked(ref: str, ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"weights {ref}: cannot be reached: {error}") from error
