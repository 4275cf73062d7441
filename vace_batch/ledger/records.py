"""Reads many small JSON records at once, and keeps them together in Parquet so that the next reading is quick.

    OUT/ledger/compact/<state>-<kind>-<digest>.parquet      key, version, what `status` asks, record

The records themselves stay where they are and stay the truth: exclusive creation needs each at its own name. A compact
file is a copy that may be missing, broken, old, or there twice; its name has the digest of its content. A row of it
counts while the record is still listed with the version that was copied; or while the folder that holds the record has
not changed since it was listed, which on a local disk one look at the folder tells, so that nothing is listed at all.
So it does not matter when a writer of one is killed, nor how many write.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch import log
from vace_batch.storage import files as storage

Record = dict[str, Any]

COMPACT_FROM = 1_000
"""So many records must have been read one by one before a compact file is worth writing."""

_LISTED_PER_READ = 50
"""A record that only had to be listed costs so much less than one that had to be read."""

_AT_ONCE = 20_000
"""Records that are in memory while they are read or written."""

_SETTLED_S = 2.0
"""A folder that changed less than this before it was listed may change again without another time."""

_BRIEF = {"status": pa.string(), "error_code": pa.string(), "reason": pa.string()}
_BRIEF |= {"runs": pa.int32(), "windows": pa.int32(), "seconds": pa.float64()}

BRIEF = ("key", *_BRIEF)
"""What is told of a record without reading all of it."""

_SCHEMA = pa.schema([("key", pa.string()), ("version", pa.string()), *_BRIEF.items(), ("record", pa.binary())])
_LISTED = pa.schema([("key", pa.string()), ("version", pa.string()), ("size", pa.int64())])
_FOLDERS = b"folders"
_LOG = log.get_logger(__name__)


def read_records(out: str, state: str, kind: str, *, compact_from: int | None = None) -> Iterator[tuple[str, Record]]:
    """Key and content of every record of `kind` in `state` (done or quarantine), in no order.

    With `compact_from`, writes them down together when at least so many had to be read one by one.
    """
    for table in read_tables(out, state, kind, ("key", "record"), compact_from=compact_from):
        yield from zip(table["key"].to_pylist(), map(json.loads, table["record"].to_pylist()), strict=True)


def read_tables(
    out: str, state: str, kind: str, columns: Sequence[str] = BRIEF, *, compact_from: int | None = None
) -> Iterator[pa.Table]:
    """The same as tables, none of them large, one at least; `columns` are some of `BRIEF` and `record`, its JSON."""
    folder = storage.join(out, "ledger", state)
    versions = _folder_versions(folder)
    listed_at = time.time()
    copies, broken = _copies(out, f"{state}-{kind}-")
    settled = set[str]()
    for copy in copies:
        copy.settle(versions, settled)
    listed = _list(folder, kind, None if not versions else sorted(versions.keys() - settled))
    num_listed = len(listed)
    for copy in copies:
        listed = copy.match(listed)
    writer = None
    if compact_from is not None and len(listed) + num_listed // _LISTED_PER_READ >= compact_from:
        writer = _CompactFile()
    names = list(columns) if writer is None else _SCHEMA.names
    yield _SCHEMA.empty_table().select(list(columns))
    for copy in copies:
        yield from _passed(copy.parts(names), columns, writer)
    yield from _passed(_read_loose(folder, listed), columns, writer)
    if writer is not None:
        instead_of = [*(copy.name for copy in copies), *broken]
        writer.publish(out, f"{state}-{kind}-", _settled(versions, listed_at), instead_of)


def _passed(parts: Iterable[pa.Table], columns: Sequence[str], writer: _CompactFile | None) -> Iterator[pa.Table]:
    for part in parts:
        if writer is not None:
            writer.add(part)
        yield part.select(list(columns))


def k2(key: str) -> str:
    """The folder that a key's files lie in, so that no folder has all of them."""
    return key.rsplit("-", 1)[-1][:2]


def record_name(key: str) -> str:
    """Where a record lies in its state's folder."""
    return f"{k2(key)}/{key}.json"


# --- what is there ---------------------------------------------------------------------------------------------------


def _folder_versions(folder: str) -> dict[str, str]:
    """A word for each subfolder of a local folder that changes when a file in it comes or goes; {} of a store's."""
    found: dict[str, str] = {}
    if storage.is_local(folder):
        with contextlib.suppress(FileNotFoundError), os.scandir(storage.resolve(folder)[1]) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found[entry.name] = _folder_version(entry.path)
    return found


def _folder_version(path: str) -> str:
    # Copied with its times a folder keeps mtime, never ctime: what was copied half is listed.
    stat = os.stat(path, follow_symlinks=False)
    return f"{stat.st_ctime_ns}-{stat.st_ino}"


def _settled(versions: dict[str, str], listed_at: float) -> dict[str, str]:
    """The folders whose next change is sure to give them another word."""
    last = int((listed_at - _SETTLED_S) * 1e9)
    return {name: version for name, version in versions.items() if int(version.split("-")[0]) < last}


def _tells_changes(path: str) -> bool:
    """Whether folders get another time when a file comes or goes: those of a mounted bucket may not."""
    with tempfile.NamedTemporaryFile(prefix=".part-", dir=path):
        before = _folder_version(path)
        time.sleep(0.05)
    return _folder_version(path) != before


def _list(folder: str, kind: str, subfolders: Sequence[str] | None) -> pa.Table:
    """Keys, versions and sizes of the records in these subfolders; None: in all."""
    tables = [_LISTED.empty_table()]
    columns: tuple[list[Any], ...] = ([], [], [])
    for entry in _entries(folder, kind, subfolders):
        for column, value in zip(columns, (_key(entry.name), entry.version, entry.size), strict=True):
            column.append(value)
        if len(columns[0]) == _AT_ONCE:
            tables.append(pa.table(list(columns), schema=_LISTED))
            columns = ([], [], [])
    return pa.concat_tables([*tables, pa.table(list(columns), schema=_LISTED)])


def _entries(folder: str, kind: str, subfolders: Sequence[str] | None) -> Iterator[storage.Entry]:
    folders = [folder] if subfolders is None else [storage.join(folder, name) for name in subfolders]
    for one in folders:
        yield from (entry for entry in storage.list_entries(one, prefix=kind + "-") if not entry.is_temporary)


def _key(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".json")


def _read_loose(folder: str, listed: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(listed), _AT_ONCE):
        keys, versions, sizes = (column.to_pylist() for column in listed.slice(start, _AT_ONCE).columns)
        contents = list(storage.read_many([storage.join(folder, record_name(key)) for key in keys], sizes))
        there = [content is not None for content in contents]  # None: taken back since it was listed
        records = [json.loads(content) for content in contents if content is not None]
        columns = {name: [_plain(record.get(name)) for record in records] for name in _BRIEF}
        columns |= {"record": [content for content in contents if content is not None]}
        columns |= {
            name: [value for value, is_there in zip(values, there, strict=True) if is_there]
            for name, values in (("key", keys), ("version", versions))
        }
        yield pa.table(columns, schema=_SCHEMA)


def _plain(value: Any) -> Any:
    """`value` as Arrow takes it: of odd file names there may be lone surrogates in a reason."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


# --- compact files ---------------------------------------------------------------------------------------------------


class _Copy:
    """A compact file and which of its rows hold."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self._file = pq.ParquetFile(pa.BufferReader(content))
        if not self._file.schema_arrow.equals(_SCHEMA):
            raise pa.ArrowInvalid("other columns")
        self._folders: dict[str, str] = json.loads((self._file.metadata.metadata or {}).get(_FOLDERS, b"{}"))
        self._holds: pa.ChunkedArray | None = None

    def settle(self, versions: dict[str, str], settled: set[str]) -> None:
        """Take the rows of folders that are as they were; what is `settled` already is another copy's."""
        mine = {name for name, word in self._folders.items() if versions.get(name) == word} - settled
        settled |= mine
        keys = self._file.read(["key"], use_threads=False)["key"]
        folders = pc.utf8_slice_codeunits(pc.replace_substring_regex(keys, "^.*-", ""), 0, 2)
        self._holds = pc.is_in(folders, pa.array(sorted(mine), pa.string()))

    def match(self, listed: pa.Table) -> pa.Table:
        """Take the rows that are listed as they were copied; what is listed without one is left."""
        if not len(listed):
            return listed
        mine, there = _tag(self._file.read(["key", "version"], use_threads=False)), _tag(listed)
        self._holds = pc.or_(self._holds, pc.is_in(mine, there.combine_chunks()))
        return listed.filter(pc.invert(pc.is_in(there, mine.combine_chunks())))

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows that hold, some at a time."""
        start = 0
        for batch in self._file.iter_batches(_AT_ONCE, columns=list(columns), use_threads=False):
            chosen = self._holds.slice(start, len(batch))  # type: ignore[union-attr]
            start += len(batch)
            yield pa.table(batch).filter(chosen)


def _tag(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["key"], table["version"], "/")


def _copies(out: str, prefix: str) -> tuple[list[_Copy], list[str]]:
    """The compact files, and the names of those that are none."""
    folder = storage.join(out, "ledger", "compact")
    copies, broken = list[_Copy](), list[str]()
    for name in storage.list_files(folder):
        if not name.startswith(prefix):
            continue
        try:
            digest = name.removeprefix(prefix).removesuffix(".parquet")
            copies.append(_Copy(name, storage.read_verified(storage.join(folder, name), digest)))
        except FileNotFoundError:  # another driver has written a newer one
            continue
        except (pa.ArrowException, OSError) as error:
            broken.append(name)
            _LOG.warning("%s cannot be read (%s); its records are read one by one", name, error)
    return copies, broken


class _CompactFile:
    """A compact file as it grows, by parts; nobody sees it before it is published."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, _SCHEMA, compression="zstd", use_dictionary=list(_BRIEF))

    def add(self, part: pa.Table) -> None:
        self._writer.write_table(part)

    def publish(self, out: str, prefix: str, folders: dict[str, str], instead_of: Sequence[str]) -> None:
        """Put it in the place of those that it was made from."""
        compact = storage.join(out, "ledger", "compact")
        if folders:
            path = storage.resolve(compact)[1]
            os.makedirs(path, exist_ok=True)
            if _tells_changes(path):
                self._writer.add_key_value_metadata({_FOLDERS: json.dumps(folders)})
        self._writer.close()
        data = self._sink.getvalue().to_pybytes()
        name = f"{prefix}{storage.digest(data)}.parquet"
        storage.publish(storage.join(compact, name), data)
        for old in instead_of:
            if old != name:
                storage.delete(storage.join(compact, old))


def table_of(content: bytes) -> pa.Table:
    """What a Parquet file holds, read by this thread alone.

    `pq.read_table` goes through a scanner whose threads can outlive the call; one that lets go of a Python buffer while
    the interpreter ends aborts a run that was done (apache/arrow#36389).

    Raises:
        pyarrow.ArrowException: it is not Parquet.
        OSError: it is damaged.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
