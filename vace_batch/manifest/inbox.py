"""Turn new files below a folder or bucket prefix into rows of a growing manifest, OUT/watch/manifest.parquet.

A file becomes a row when two polls, at least `settle_s` apart, have seen the same version: a file that is still being
uploaded waits. A row keeps its job_id; the ledger keeps work from being done twice. A file that is written again loses
its row until the file has settled again, then has the same row with another video. A deleted file loses its row; its
output stays.
"""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.errors import UsageError
from vace_batch.manifest.builder import job_ids, write_manifest
from vace_batch.manifest.limits import MAX_JOB_ID_BYTES
from vace_batch.manifest.reader import jobs_of
from vace_batch.manifest.schema import SCHEMA
from vace_batch.manifest.uris import folder_of
from vace_batch.manifest.video_suffixes import is_unicode, is_video
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries

SETTLE_S = 300.0
_FILE, _VERSION = "x_file", "x_version"

_Row = dict[str, str]
"""The texts of a row that a poll knows: job_id, x_file and x_version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """The result of a poll. `is_due`: the manifest has rows that no batch has finished yet."""

    manifest: str
    rows: int
    new: int
    waiting: int
    is_due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """OUT/watch/seen.json: files that wait by name, whether a batch is due, and a digest of the columns of all rows."""

    waiting: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    is_due: bool = False
    columns: str | None = None


def poll(
    prefix: str,
    out: str,
    columns: Mapping[str, object],
    *,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.time,
) -> Incoming:
    """List the files below `prefix` once, and bring the manifest in OUT up to date.

    `columns` are values for every row, `task` among them.

    Raises:
        ManifestError: a row cannot have these values.
        UsageError: `prefix` is not a place, OUT is below `prefix`, or `settle_s` is negative.
    """
    if settle_s < 0:
        raise UsageError(f"settle_s: expected 0 or more, got {settle_s:g}")
    root = _root(prefix, out)
    manifest = storage.join(out, "watch", "manifest.parquet")
    known = _known_rows(manifest)
    memory = _recall(out)
    versions = _video_versions(root)
    rows = _unchanged(known, versions)
    pending = {name: version for name, version in versions.items() if name not in rows}
    settled, waiting = _settled(pending, memory.waiting, clock(), settle_s)
    rows |= _new_rows(settled, versions, known, rows)
    columns_digest = storage.digest(json.dumps(columns, sort_keys=True))
    is_news = bool(settled) or columns_digest != memory.columns
    if is_news or rows.keys() != known.keys():
        # Before the manifest: if a poll is killed in between, a batch is still due.
        _remember(out, _Memory(waiting=waiting, is_due=True, columns=None))
        _write(_filled(rows, root, columns), manifest)
    is_due = bool(rows) and (memory.is_due or is_news)
    _remember(out, _Memory(waiting=waiting, is_due=is_due, columns=columns_digest))
    return Incoming(manifest=manifest, rows=len(rows), new=len(settled), waiting=len(waiting), is_due=is_due)


def _root(prefix: str, out: str) -> str:
    """Return the folder that `prefix` names.

    Raises:
        UsageError: OUT is below the folder.
    """
    root = folder_of(storage.join(prefix, "x"))
    if f"{folder_of(storage.join(out, 'x'))}/".startswith(f"{root}/"):
        raise UsageError(f"{out}: expected an output that is not below {prefix}: its videos would become rows, too")
    return root


def _video_versions(root: str) -> dict[str, str]:
    """List the finished videos below `root`: the version of each file by its name."""
    return {
        entry.name: entry.version
        for entry in list_entries(root)
        if is_video(entry.name) and is_unicode(entry.name) and not entry.is_temporary
    }


def _unchanged(known: Mapping[str, _Row], versions: Mapping[str, str]) -> dict[str, _Row]:
    """Select the rows whose file still has the row's version."""
    return {name: row for name, row in known.items() if row[_VERSION] == versions.get(name)}


def _filled(rows: Mapping[str, _Row], root: str, columns: Mapping[str, object]) -> list[dict[str, object]]:
    """Make complete rows, sorted by file name: each with its video's URI and the columns that all rows share."""
    return [row | {"video_uri": storage.join(root, name)} | dict(columns) for name, row in sorted(rows.items())]


def _new_rows(
    settled: Iterable[str], versions: Mapping[str, str], known: Mapping[str, _Row], rows: Mapping[str, _Row]
) -> dict[str, _Row]:
    """Make rows of settled files, with job ids that no row of `rows` has."""
    ids = _ids(settled, known, {row["job_id"] for row in rows.values()})
    return {name: {"job_id": job_id, _FILE: name, _VERSION: versions[name]} for name, job_id in ids.items()}


def settle(out: str) -> None:
    """Record that a batch has finished every row of the manifest."""
    _remember(out, replace(_recall(out), is_due=False))


def _settled(
    pending: Mapping[str, str], waiting: Mapping[str, tuple[str, float]], now: float, settle_s: float
) -> tuple[list[str], dict[str, tuple[str, float]]]:
    """Split pending files into settled names and waiting files; a waiting file is (version, first seen) by name."""
    settled: list[str] = []
    still_waiting: dict[str, tuple[str, float]] = {}
    for name, version in sorted(pending.items()):
        version_before, since = waiting.get(name, ("", now))
        if version_before != version:
            still_waiting[name] = (version, now)
        elif now - since < settle_s:
            still_waiting[name] = (version, since)
        else:
            settled.append(name)
    return settled, still_waiting


def _recall(out: str) -> _Memory:
    try:
        return _Memory(**storage.read_json(storage.join(out, "watch", "seen.json")))
    except FileNotFoundError:
        return _Memory()


def _remember(out: str, memory: _Memory) -> None:
    storage.publish(storage.join(out, "watch", "seen.json"), json.dumps(asdict(memory)).encode())


def _write(rows: Sequence[Mapping[str, object]], uri: str) -> None:
    """Write the manifest, or delete it when no row is left."""
    if not rows:
        storage.delete(uri)
        return
    fields = [SCHEMA.field(name) if name in SCHEMA.names else pa.field(name, pa.string()) for name in rows[0]]
    table = pa.Table.from_pylist(rows, pa.schema(fields, metadata=SCHEMA.metadata))
    jobs_of(table, folder_of(uri))
    write_manifest(table, uri)


def _known_rows(uri: str) -> dict[str, _Row]:
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return {}
    rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()
    return {row[_FILE]: {name: row[name] for name in ("job_id", _FILE, _VERSION)} for row in rows}


def _ids(names: Iterable[str], known: Mapping[str, _Row], taken: set[str]) -> dict[str, str]:
    """Choose job ids: a known file keeps its id, a new one gets its path without suffix, or with it if taken."""
    ids: dict[str, str] = {}
    for name in names:
        job_id = known[name]["job_id"] if name in known else posixpath.splitext(name)[0]
        if job_id in taken or not job_id.strip():
            job_id = name
        ids[name] = job_id if len(job_id.encode()) <= MAX_JOB_ID_BYTES else job_ids([job_id + ".x"])[0]
        taken.add(ids[name])
    return ids
