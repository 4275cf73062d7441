"""Read many small JSON records at once, and copy them into Parquet files so that the next reading is quick.

    OUT/ledger/compact/<state>-<kind>-<digest>.parquet      key, version, brief columns of the kind, record

The JSON records stay the truth, since exclusive creation needs each record at its own name. A compact file is a copy
that may be missing, broken, old or doubled; its name holds the digest of its content. A row of a copy is valid if the
record is still listed with the version that was copied. On a local disk an unchanged ctime of the record's folder
proves the same without listing the folder. So any number of drivers may write copies, and may be killed meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vace_batch import log
from vace_batch.storage import files as storage
from vace_batch.storage.listing import Entry, list_entries, list_files

COMPACT_FROM = 1_000
"""Records read one by one from which a compact file is worth writing."""

_LISTED_PER_READ = 50
"""Listing this many records costs as much as reading one."""

_AT_ONCE = 20_000
"""Records in memory while they are read or written."""

_SETTLED_S = 2.0
"""A folder that changed less than this before it was listed may change again within the same ctime."""

BRIEF: dict[str, dict[str, pa.DataType]] = {
    "clip": {
        "status": pa.string(),
        "error_code": pa.string(),
        "reason": pa.string(),
        "runs": pa.int32(),
        "windows": pa.int32(),
        "seconds": pa.float64(),
        "output": pa.string(),
        "num_bytes": pa.int64(),
        "sha256": pa.string(),
        "output_version": pa.string(),
    },
    "quality": {
        "verdict": pa.string(),
        "reasons": pa.list_(pa.string()),
        "thresholds": pa.string(),
        "measure_again": pa.bool_(),
    },
}
"""Columns by kind that can be read without parsing the whole record, beside `key` and `record`."""

_LISTED = pa.schema([("key", pa.string()), ("version", pa.string()), ("size", pa.int64())])
_FOLDERS = b"folders"
_LOG = log.get_logger(__name__)


def read_records(
    out: str, state: str, kind: str, *, compact_from: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the key and content of every record of `kind` in `state` (done or quarantine), in no order.

    With `compact_from`, copy the records into a compact file when at least this many had to be read one by one.
    """
    for table in read_tables(out, state, kind, ("key", "record"), compact_from=compact_from):
        yield from zip(table["key"].to_pylist(), map(json.loads, table["record"].to_pylist()), strict=True)


def read_tables(
    out: str, state: str, kind: str, columns: Sequence[str], *, compact_from: int | None = None
) -> Iterator[pa.Table]:
    """Read every record of `kind` in `state` as small tables, the first one empty.

    `columns` are some of `key`, the kind's `BRIEF` and `record`, the record as JSON.
    """
    schema, prefix = _schema(kind), f"{state}-{kind}-"
    folder = storage.join(out, "ledger", state)
    versions = _folder_versions(folder)
    listed_at = time.time()
    copies, broken = _copies(out, prefix, schema)
    settled = _settle(copies, versions)
    present = _list(folder, kind, sorted(versions.keys() - settled) if versions else None)
    loose = _match(copies, present)
    cost = len(present) // _LISTED_PER_READ + len(loose)
    writer = None if compact_from is None or cost < compact_from else _CompactFile(schema)
    names = list(columns) if writer is None else schema.names
    yield schema.empty_table().select(list(columns))
    for part in chain(*(copy.parts(names) for copy in copies), _read_loose(folder, loose, schema)):
        if writer is not None:
            writer.add(part)
        yield part.select(list(columns))
    if writer is not None:
        writer.publish(out, prefix, _settled(versions, listed_at), [*(copy.name for copy in copies), *broken])


def _schema(kind: str) -> pa.Schema:
    brief = BRIEF.get(kind, {})
    return pa.schema([("key", pa.string()), ("version", pa.string()), *brief.items(), ("record", pa.binary())])


def k2(key: str) -> str:
    """Name the subfolder of a key's files: keys are spread over 256 subfolders."""
    return key.rsplit("-", 1)[-1][:2]


def record_name(key: str) -> str:
    """Name a record's file, relative to its state's folder."""
    return f"{k2(key)}/{key}.json"


# --- listing ---------------------------------------------------------------------------------------------------


def _folder_versions(folder: str) -> dict[str, str]:
    """Read a version of each subfolder that changes when a file in it comes or goes; empty for a store."""
    versions: dict[str, str] = {}
    if storage.is_local(folder):
        with contextlib.suppress(FileNotFoundError), os.scandir(storage.resolve(folder)[1]) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    versions[entry.name] = _folder_version(entry.path)
    return versions


def _folder_version(path: str) -> str:
    # A folder that is copied with its times keeps mtime, never ctime: a half-copied folder is listed again.
    stat = os.stat(path, follow_symlinks=False)
    return f"{stat.st_ctime_ns}-{stat.st_ino}"


def _settled(versions: dict[str, str], listed_at: float) -> dict[str, str]:
    """Select the folders whose next change will surely give another version."""
    last = int((listed_at - _SETTLED_S) * 1e9)
    return {name: version for name, version in versions.items() if int(version.split("-")[0]) < last}


def _tells_changes(path: str) -> bool:
    """Test whether a folder's ctime changes when a file comes or goes; on a mounted bucket it may not."""
    with tempfile.NamedTemporaryFile(prefix=".part-", dir=path):
        before = _folder_version(path)
        time.sleep(0.05)
    return _folder_version(path) != before


def _list(folder: str, kind: str, subfolders: Sequence[str] | None) -> pa.Table:
    """List keys, versions and sizes of the records in some subfolders; None: in all."""
    tables = [_LISTED.empty_table()]
    rows: list[dict[str, Any]] = []
    for entry in _entries(folder, kind, subfolders):
        rows.append({"key": _key(entry.name), "version": entry.version, "size": entry.size})
        if len(rows) == _AT_ONCE:
            tables.append(pa.Table.from_pylist(rows, schema=_LISTED))
            rows = []
    return pa.concat_tables([*tables, pa.Table.from_pylist(rows, schema=_LISTED)])


def _entries(folder: str, kind: str, subfolders: Sequence[str] | None) -> Iterator[Entry]:
    folders = [folder] if subfolders is None else [storage.join(folder, name) for name in subfolders]
    for one in folders:
        yield from (entry for entry in list_entries(one, prefix=kind + "-") if not entry.is_temporary)


def _key(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".json")


def _read_loose(folder: str, listed: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Read listed records one by one; a record that was taken back since the listing is left out."""
    brief = [name for name in schema.names if name not in ("key", "version", "record")]
    for start in range(0, len(listed), _AT_ONCE):
        part = listed.slice(start, _AT_ONCE).to_pydict()
        uris = [storage.join(folder, record_name(key)) for key in part["key"]]
        rows: list[dict[str, Any]] = []
        for key, version, content in zip(
            part["key"], part["version"], storage.read_many(uris, part["size"]), strict=True
        ):
            if content is not None:
                record = json.loads(content)
                columns = {name: _arrow_value(record.get(name)) for name in brief}
                rows.append({"key": key, "version": version, "record": content, **columns})
        yield pa.Table.from_pylist(rows, schema=schema)


def _arrow_value(value: object) -> object:
    """Escape lone surrogates, which Arrow refuses and odd file names bring into reasons."""
    if isinstance(value, list):
        return [_arrow_value(part) for part in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


# --- compact files ---------------------------------------------------------------------------------------------------


class _Copy:
    """A compact file, and which of its rows are valid."""

    def __init__(self, name: str, content: bytes, schema: pa.Schema) -> None:
        self.name = name
        self._file = pq.ParquetFile(pa.BufferReader(content))
        if not self._file.schema_arrow.equals(schema):
            raise pa.ArrowInvalid("other columns")
        self._folders: dict[str, str] = json.loads((self._file.metadata.metadata or {}).get(_FOLDERS, b"{}"))
        self._valid: pa.ChunkedArray | None = None

    def settle(self, versions: dict[str, str], settled: set[str]) -> set[str]:
        """Accept the rows of unchanged folders but the `settled` ones, which another copy has; return the folders."""
        folders = {name for name, version in self._folders.items() if versions.get(name) == version} - settled
        keys = self._file.read(["key"], use_threads=False)["key"]
        subfolders = pc.utf8_slice_codeunits(pc.replace_substring_regex(keys, "^.*-", ""), 0, 2)
        self._valid = pc.is_in(subfolders, pa.array(sorted(folders), pa.string()))
        return folders

    def match(self, listed: pa.Table) -> pa.Table:
        """Accept the rows whose version is listed; return the other listed records."""
        if not len(listed):
            return listed
        copied = _tag(self._file.read(["key", "version"], use_threads=False))
        present = _tag(listed)
        self._valid = pc.or_(self._valid, pc.is_in(copied, present.combine_chunks()))
        return listed.filter(pc.invert(pc.is_in(present, copied.combine_chunks())))

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the valid rows, some at a time."""
        start = 0
        for batch in self._file.iter_batches(_AT_ONCE, columns=list(columns), use_threads=False):
            valid = self._valid.slice(start, len(batch))  # type: ignore[union-attr]
            start += len(batch)
            yield pa.table(batch).filter(valid)


def _settle(copies: Iterable[_Copy], versions: dict[str, str]) -> set[str]:
    """Accept the rows of unchanged folders, each folder from one copy; return these folders."""
    settled: set[str] = set()
    for copy in copies:
        settled |= copy.settle(versions, settled)
    return settled


def _match(copies: Iterable[_Copy], listed: pa.Table) -> pa.Table:
    """Accept the rows of copies whose version is listed; return the listed records that no copy has."""
    for copy in copies:
        listed = copy.match(listed)
    return listed


def _tag(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["key"], table["version"], "/")


def _copies(out: str, prefix: str, schema: pa.Schema) -> tuple[list[_Copy], list[str]]:
    """Open the compact files; return them, and the names of broken ones."""
    folder = storage.join(out, "ledger", "compact")
    copies: list[_Copy] = []
    broken: list[str] = []
    for name in list_files(folder):
        if not name.startswith(prefix):
            continue
        try:
            digest = name.removeprefix(prefix).removesuffix(".parquet")
            copies.append(_Copy(name, storage.read_verified(storage.join(folder, name), digest), schema))
        except FileNotFoundError:  # another driver has written a newer one
            continue
        except (pa.ArrowException, OSError) as error:
            broken.append(name)
            _LOG.warning("%s cannot be read (%s); its records are read one by one", name, error)
    return copies, broken


class _CompactFile:
    """A compact file that grows by parts and stays invisible until it is published."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = pa.BufferOutputStream()
        repeated = [name for name in schema.names if name not in ("key", "version", "record")]
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=repeated)

    def add(self, part: pa.Table) -> None:
        self._writer.write_table(part)

    def publish(self, out: str, prefix: str, folders: dict[str, str], replaced: Sequence[str]) -> None:
        """Write the file, then delete the files `replaced` that its rows came from."""
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
        for old in replaced:
            if old != name:
                storage.delete(storage.join(compact, old))
