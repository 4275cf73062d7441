"""Reads many small JSON records at once, and keeps them together in Parquet so that the next reading is quick.

    OUT/ledger/compact/<state>-<kind>-<id>.parquet      key, version, record

The records themselves stay where they are and stay the truth: exclusive creation needs each at its own name. A compact
file is a copy that may be missing, old, or there twice; a row of it counts only while the record is still listed with
the version that was copied. So it does not matter when a writer of one is killed, nor how many write.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch import log, storage

Record = dict[str, Any]

COMPACT_FROM = 1_000
"""So many records must have been read one by one before a compact file is worth writing."""

_MOST_FILES = 8
_SCHEMA = pa.schema([("key", pa.string()), ("version", pa.string()), ("record", pa.binary())])
_Copies = dict[str, tuple[str, bytes]]
_LOG = log.get_logger(__name__)


def read_records(out: str, state: str, kind: str, *, compact_from: int | None = None) -> dict[str, Record]:
    """Every record of `kind` in `state` (done or quarantine), by key.

    With `compact_from`, writes them down together when at least so many had to be read one by one.
    """
    folder = storage.join(out, "ledger", state)
    listed = {
        _key(entry.name): entry for entry in storage.list_entries(folder, prefix=kind + "-") if not entry.is_temporary
    }
    files, copies = _read_copies(out, f"{state}-{kind}-")
    loose = [key for key, entry in listed.items() if copies.get(key, ("",))[0] != entry.version]
    fresh: _Copies = {}
    sizes = [listed[key].size for key in loose]
    contents = storage.read_many([storage.join(folder, listed[key].name) for key in loose], sizes)
    for key, content in zip(loose, contents, strict=True):
        if content is not None:  # None: taken back since it was listed
            fresh[key] = listed[key].version, content
    kept = {key: copies[key] for key in listed.keys() & copies.keys() if copies[key][0] == listed[key].version} | fresh
    if compact_from is not None and len(fresh) >= compact_from:
        _write(out, f"{state}-{kind}-", fresh, kept, files)
    return {key: json.loads(content) for key, (_, content) in kept.items()}


def _key(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".json")


def _read_copies(out: str, prefix: str) -> tuple[list[str], _Copies]:
    """The compact files that could be read, and what they hold."""
    folder = storage.join(out, "ledger", "compact")
    names = [name for name in storage.list_files(folder) if name.startswith(prefix)]
    files, copies = [], _Copies()
    for name, content in zip(names, storage.read_many([storage.join(folder, name) for name in names]), strict=True):
        if content is None:  # another driver has merged it
            continue
        files.append(name)
        try:
            table = table_of(content).select(_SCHEMA.names)
        except (pa.ArrowException, OSError, KeyError) as error:
            _LOG.warning("%s cannot be read (%s); its records are read one by one", name, error)
            continue
        keys, versions, records = (table.column(column).to_pylist() for column in _SCHEMA.names)
        copies.update(zip(keys, zip(versions, records, strict=True), strict=True))
    return files, copies


def _write(out: str, prefix: str, fresh: _Copies, kept: _Copies, files: list[str]) -> None:
    """One more file with what is new; where there are many, one with everything in place of them."""
    merge = len(files) >= _MOST_FILES
    folder = storage.join(out, "ledger", "compact")
    storage.publish(storage.join(folder, f"{prefix}{uuid.uuid4().hex}.parquet"), _parquet(kept if merge else fresh))
    for name in files if merge else ():
        storage.delete(storage.join(folder, name))


def table_of(content: bytes) -> pa.Table:
    """What a Parquet file holds, read by this thread alone.

    `pq.read_table` goes through a scanner whose threads can outlive the call; one that lets go of a Python buffer while
    the interpreter ends aborts a run that was done (apache/arrow#36389).

    Raises:
        pyarrow.ArrowException: it is not Parquet.
        OSError: it is damaged.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def _parquet(copies: Mapping[str, tuple[str, bytes]]) -> bytes:
    rows = {
        "key": list(copies),
        "version": [version for version, _ in copies.values()],
        "record": [content for _, content in copies.values()],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows, schema=_SCHEMA), sink, compression="zstd", use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data
