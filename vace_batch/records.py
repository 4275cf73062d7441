"""Reads many small JSON records at once, and keeps them together in Parquet so that the next reading is quick.

    OUT/ledger/compact/<state>-<kind>-<id>.parquet      key, version, record

The records themselves stay where they are and stay the truth: exclusive creation needs each at its own name. A compact
file is a copy that may be missing, old, or there twice; a row of it counts only while the record is still listed with
the version that was copied. So it does not matter when a writer of one is killed, nor how many write.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch import log, storage

Record = dict[str, Any]

COMPACT_FROM = 1_000
"""So many records must have been read one by one before a compact file is worth writing."""

_MOST_FILES = 8
_AT_ONCE = 20_000
"""Records that are in memory while they are read or written."""

_SCHEMA = pa.schema([("key", pa.string()), ("version", pa.string()), ("record", pa.binary())])
_Copy = tuple[str, str, bytes]
_LOG = log.get_logger(__name__)


def read_records(out: str, state: str, kind: str, *, compact_from: int | None = None) -> Iterator[tuple[str, Record]]:
    """Key and content of every record of `kind` in `state` (done or quarantine), in no order.

    With `compact_from`, writes them down together when at least so many had to be read one by one.
    """
    folder = storage.join(out, "ledger", state)
    listed = {
        _key(entry.name): (entry.version, entry.size)
        for entry in storage.list_entries(folder, prefix=kind + "-")
        if not entry.is_temporary
    }
    prefix, files, told = f"{state}-{kind}-", list[str](), set[str]()

    def valid(copies: Iterable[_Copy]) -> Iterator[_Copy]:
        return (copy for copy in copies if listed.get(copy[0], ("",))[0] == copy[1])

    for copy in valid(_read_copies(out, prefix, files)):
        if copy[0] not in told:
            told.add(copy[0])
            yield copy[0], json.loads(copy[2])
    loose = [key for key in listed if key not in told]
    writer = _CompactFile() if compact_from is not None and len(loose) >= compact_from else None
    for start in range(0, len(loose), _AT_ONCE):
        fresh = list(_read_loose(folder, loose[start : start + _AT_ONCE], listed))
        if writer is not None:
            writer.add(fresh)
        yield from ((key, json.loads(content)) for key, _, content in fresh)
    if writer is not None:
        old = files if len(files) >= _MOST_FILES else []
        writer.add(valid(_read_copies(out, prefix, [], old)))
        writer.publish(out, prefix)
        for name in old:
            storage.delete(storage.join(out, "ledger", "compact", name))


def k2(key: str) -> str:
    """The folder that a key's files lie in, so that no folder has all of them."""
    return key.rsplit("-", 1)[-1][:2]


def record_name(key: str) -> str:
    """Where a record lies in its state's folder."""
    return f"{k2(key)}/{key}.json"


def _key(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".json")


def _read_loose(folder: str, keys: Sequence[str], listed: Mapping[str, tuple[str, int]]) -> Iterator[_Copy]:
    uris = [storage.join(folder, record_name(key)) for key in keys]
    for key, content in zip(keys, storage.read_many(uris, [listed[key][1] for key in keys]), strict=True):
        if content is not None:  # None: taken back since it was listed
            yield key, listed[key][0], content


def _read_copies(out: str, prefix: str, files: list[str], names: Sequence[str] | None = None) -> Iterator[_Copy]:
    """What the compact files hold, a part of one at a time; the names of those that could be read go to `files`."""
    folder = storage.join(out, "ledger", "compact")
    for name in storage.list_files(folder) if names is None else names:
        (content,) = storage.read_many([storage.join(folder, name)]) if name.startswith(prefix) else (None,)
        if content is None:  # another kind's, or another driver has merged it
            continue
        try:
            for part in pq.ParquetFile(pa.BufferReader(content)).iter_batches(_AT_ONCE, use_threads=False):
                yield from zip(*(part.column(column).to_pylist() for column in _SCHEMA.names), strict=True)
            files.append(name)
        except (pa.ArrowException, OSError, KeyError) as error:
            _LOG.warning("%s cannot be read (%s); its records are read one by one", name, error)


class _CompactFile:
    """A compact file as it grows, by parts; nobody sees it before it is published."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, _SCHEMA, compression="zstd", use_dictionary=False)
        self._keys = set[str]()

    def add(self, copies: Iterable[_Copy]) -> None:
        """Take over what is not in it yet."""
        remaining = (copy for copy in copies if copy[0] not in self._keys)
        while part := list(itertools.islice(remaining, _AT_ONCE)):
            self._keys.update(key for key, _, _ in part)
            columns = [list(column) for column in zip(*part, strict=True)]
            self._writer.write_table(pa.table(columns, schema=_SCHEMA))

    def publish(self, out: str, prefix: str) -> None:
        self._writer.close()
        data = self._sink.getvalue().to_pybytes()
        storage.publish(storage.join(out, "ledger", "compact", f"{prefix}{uuid.uuid4().hex}.parquet"), data)


def table_of(content: bytes) -> pa.Table:
    """What a Parquet file holds, read by this thread alone.

    `pq.read_table` goes through a scanner whose threads can outlive the call; one that lets go of a Python buffer while
    the interpreter ends aborts a run that was done (apache/arrow#36389).

    Raises:
        pyarrow.ArrowException: it is not Parquet.
        OSError: it is damaged.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
