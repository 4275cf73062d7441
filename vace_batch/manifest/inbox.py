"""New files below a folder or bucket prefix, as rows of a manifest that grows: OUT/watch/manifest.parquet.

A file becomes a row once it has been the same in two looks far enough apart: what is still being uploaded waits. It
keeps its job_id; the ledger sees to it that nothing is done twice. A file that is written again is no row until it has
settled again, and then the same row with another video; a file that is gone is a row no more, its output stays.
"""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.errors import UsageError
from vace_batch.manifest.builder import job_ids, write_manifest
from vace_batch.manifest.cells import MAX_JOB_ID_BYTES
from vace_batch.manifest.reader import jobs_of
from vace_batch.manifest.schema import SCHEMA
from vace_batch.manifest.uris import folder_of
from vace_batch.manifest.video_suffixes import is_unicode, is_video
from vace_batch.storage import files as storage

SETTLE_S = 300.0
_FILE, _VERSION = "x_file", "x_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What a look at the folder found. `is_due`: the manifest has something that no batch has ended with yet."""

    manifest: str
    rows: int
    new: int
    waiting: int
    is_due: bool


def poll(
    prefix: str,
    out: str,
    columns: Mapping[str, object],
    *,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.time,
) -> Incoming:
    """Look once at what is below `prefix`, and bring the manifest in OUT up to date with it.

    `columns` are the manifest's values in every row, `task` among them.

    Raises:
        ManifestError: the columns are not such as a row may have.
        UsageError: `prefix` cannot be a place, OUT is below it, or the time is negative.
    """
    if settle_s < 0:
        raise UsageError(f"settle_s: expected 0 or more, got {settle_s:g}")
    uri, memory = storage.join(out, "watch", "manifest.parquet"), storage.join(out, "watch", "seen.json")
    root = folder_of(storage.join(prefix, "x"))
    if f"{folder_of(storage.join(out, 'x'))}/".startswith(f"{root}/"):
        raise UsageError(f"{out}: expected an output that is not below {prefix}, or its videos would come in, too")
    known, seen = _known(uri), _seen(memory)
    found = {
        entry.name: entry.version
        for entry in storage.list_entries(root)
        if is_video(entry.name) and is_unicode(entry.name) and not entry.is_temporary
    }
    now, waiting = clock(), dict[str, tuple[str, float]]()
    rows = {name: known[name] for name, version in found.items() if known.get(name, {}).get(_VERSION) == version}
    fresh = list[str]()
    for name in sorted(found.keys() - rows.keys()):
        version, since = seen["waiting"].get(name, ("", now))
        if version == found[name] and now - since >= settle_s:
            fresh.append(name)
        else:
            waiting[name] = (found[name], since if version == found[name] else now)
    ids = _ids(fresh, known, {row["job_id"] for row in rows.values()})
    rows |= {name: {"job_id": ids[name], _FILE: name, _VERSION: found[name]} for name in fresh}
    said = storage.digest(json.dumps(columns, sort_keys=True))
    if rows.keys() != known.keys() or fresh or said != seen["columns"]:
        filled = [row | {"video_uri": storage.join(root, name)} | dict(columns) for name, row in sorted(rows.items())]
        # First, or what a look that was killed has put into the manifest would be nobody's task.
        _remember(memory, waiting, True, None)
        _write(filled, uri)
    is_due = bool(rows) and (seen["is_due"] or bool(fresh) or said != seen["columns"])
    _remember(memory, waiting, is_due, said)
    return Incoming(manifest=uri, rows=len(rows), new=len(fresh), waiting=len(waiting), is_due=is_due)


def settle(out: str) -> None:
    """Say that a batch has ended with all that the manifest had."""
    memory = storage.join(out, "watch", "seen.json")
    seen = _seen(memory)
    _remember(memory, seen["waiting"], False, seen["columns"])


def _remember(uri: str, waiting: Mapping[str, object], is_due: bool, columns: str | None) -> None:
    storage.publish(uri, json.dumps({"waiting": waiting, "is_due": is_due, "columns": columns}).encode())


def _write(rows: list[dict[str, Any]], uri: str) -> None:
    """A manifest without rows is none."""
    if not rows:
        storage.delete(uri)
        return
    fields = [SCHEMA.field(name) if name in SCHEMA.names else pa.field(name, pa.string()) for name in rows[0]]
    table = pa.Table.from_pylist(rows, pa.schema(fields, metadata=SCHEMA.metadata))
    jobs_of(table, folder_of(uri))
    write_manifest(table, uri)


def _known(uri: str) -> dict[str, dict[str, Any]]:
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return {}
    rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()
    return {row[_FILE]: {name: row[name] for name in ("job_id", _FILE, _VERSION)} for row in rows}


def _seen(uri: str) -> dict[str, Any]:
    try:
        seen: dict[str, Any] = storage.read_json(uri)
    except FileNotFoundError:
        return {"waiting": {}, "is_due": False, "columns": None}
    return seen


def _ids(names: Iterable[str], known: Mapping[str, Mapping[str, Any]], taken: set[str]) -> dict[str, str]:
    """The path without suffix, with it where another file has that; a file that is known keeps what it has."""
    ids: dict[str, str] = {}
    for name in names:
        job_id = known[name]["job_id"] if name in known else posixpath.splitext(name)[0]
        if job_id in taken or not job_id.strip():
            job_id = name
        ids[name] = job_id if len(job_id.encode()) <= MAX_JOB_ID_BYTES else job_ids([job_id + ".x"])[0]
        taken.add(ids[name])
    return ids
