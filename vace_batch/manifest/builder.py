"""Build a manifest from the videos below a folder or bucket prefix, or from a CSV."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.manifest.cells import one_line, shown
from vace_batch.manifest.column_types import type_faults
from vace_batch.manifest.csv_lines import fault_at_line, parse_fault, record_lines
from vace_batch.manifest.job import Job
from vace_batch.manifest.limits import MAX_JOB_ID_BYTES
from vace_batch.manifest.reader import jobs_of
from vace_batch.manifest.schema import SCHEMA
from vace_batch.manifest.uris import UriError, folder_of, relative_uri, resolve_uri
from vace_batch.manifest.video_suffixes import VIDEO_SUFFIXES, is_unicode, is_video
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files

_URI_COLUMNS = {part.name for part in fields(Job) if part.metadata.get("counts") == "fingerprint"} | {"protect"}


def build_manifest(prefix: str, output: str, *, task: str | None = None, **defaults: object) -> int:
    """Write a manifest of the videos at `prefix` to `output`, a Parquet file, and return the number of its rows.

    `prefix` is a folder or bucket prefix, searched for videos at any depth (sorted, hidden files left out; a row's
    job_id is the video's path without suffix), or a .csv with the manifest's columns (lists and structs as JSON; a
    single class needs no list; an empty cell is null, "" an empty text). `task` and `defaults`, plain values by column,
    fill the cells that a row leaves empty. URIs of videos below the manifest's folder are relative. The file appears
    whole or not at all.

    Raises:
        UsageError: `prefix` does not exist, or no video is below `prefix`.
        ManifestError: the rows would not be a valid manifest.
    """
    filler = {name: value for name, value in {"task": task, **defaults}.items() if value is not None}
    _check_defaults(filler)
    folder = _folder(output)
    if prefix.lower().endswith(".csv"):
        data = _csv_bytes(prefix)
        try:
            rows = [_moved(row, _folder(prefix), folder) for row in _csv_rows(data)]
            table = _table(rows, filler)
            jobs_of(table, folder)
        except ManifestError as error:
            lines = record_lines(data)
            raise ManifestError([fault_at_line(fault, lines) for fault in error.faults]) from error
    else:
        rows = _video_rows(prefix, folder)
        table = _table(rows, filler)
        # All rows share the defaults, so the first row already has every fault of the defaults.
        jobs_of(table.slice(0, 1), folder)
        jobs_of(table, folder)
    write_manifest(table, output)
    return len(rows)


def parse_defaults(assignments: Sequence[str]) -> dict[str, object]:
    """Parse `column=value` texts, with values written as in a CSV, into keyword arguments of `build_manifest`.

    Raises:
        UsageError: a text has no `=`, names no column, or has a value that its column cannot hold.
    """
    defaults: dict[str, object] = {}
    columns = [name for name in SCHEMA.names if name != "task"]  # a parameter of its own
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in columns:
            raise UsageError(f"got {shown(assignment)}, expected COLUMN=VALUE with one of {', '.join(columns)}")
        try:
            defaults[name] = _cell_value(name, text)
        except ValueError as error:
            raise UsageError(f"{name}: got {shown(text)}, expected {error}") from error
    return defaults


def _check_defaults(filler: Mapping[str, object]) -> None:
    for name, value in filler.items():
        if name not in SCHEMA.names:
            raise UsageError(f"got a default for {name!r}, expected one of {', '.join(SCHEMA.names)}")
        try:
            _check_nested(name, value)
        except ValueError as error:
            raise UsageError(f"got {shown(value)} as default for {name!r}, expected {error}") from error


def write_manifest(table: pa.Table, uri: str) -> None:
    """Write a table of manifest columns to `uri` so that it appears whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.publish(uri, sink.getvalue())


def _table(rows: Sequence[Mapping[str, object]], filler: Mapping[str, object]) -> pa.Table:
    """Make a table of the columns with a value in any row; `filler` fills empty cells, unknown columns stay."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*SCHEMA.names, *rows[0]]):
        values = [filler.get(name) if (value := row.get(name)) is None else value for row in rows]
        if all(value is None for value in values) and name not in rows[0]:
            continue
        columns[name] = _column(name, values)
    parts = [SCHEMA.field(name) if name in SCHEMA.names else pa.field(name, columns[name].type) for name in columns]
    return pa.table(list(columns.values()), schema=pa.schema(parts, metadata=SCHEMA.metadata))


def _column(name: str, values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values, SCHEMA.field(name).type if name in SCHEMA.names else None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _error(None, name, shown(str(error)), str(SCHEMA.field(name).type)) from error


def _error(row: int | None, column: str | None, got: str, expected: str) -> ManifestError:
    return ManifestError([Fault(column, got, expected, row=row)])


def _video_rows(prefix: str, folder: str) -> list[dict[str, object]]:
    root = _folder(storage.join(prefix, "x"))
    names = [name for name in list_files(root) if is_video(name)]
    if not names:
        raise UsageError(f"no video below {shown(prefix)}: looked for {' '.join(sorted(VIDEO_SUFFIXES))}")
    faults = [Fault("video_uri", ascii(name), "a file name in UTF-8") for name in names if not is_unicode(name)]
    if faults:
        raise ManifestError(faults)
    return [
        {"job_id": job_id, "video_uri": relative_uri(storage.join(root, name), folder)}
        for job_id, name in zip(job_ids(names), names, strict=True)
    ]


def job_ids(names: Sequence[str]) -> list[str]:
    """Make job ids of relative paths: the path without suffix, or with it where two would be equal; cut if too long."""
    stems = [posixpath.splitext(name)[0] for name in names]
    uses = Counter(stems)
    taken: set[str] = set()
    ids = []
    for stem, name in zip(stems, names, strict=True):
        job_id = stem if uses[stem] == 1 and stem.strip() else name
        if job_id in taken or (job_id != stem and job_id in uses) or len(job_id.encode()) > MAX_JOB_ID_BYTES:
            job_id = f"{job_id[:80]}~{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
        taken.add(job_id)
        ids.append(job_id)
    return ids


def _folder(uri: str) -> str:
    try:
        return folder_of(uri)
    except UriError as error:
        raise UsageError(f"got {shown(uri)}, expected {error}") from error


def _csv_rows(data: bytes) -> list[dict[str, object]]:
    table = _csv_table(data)
    _check_header(table)
    rows: list[dict[str, Any]] = table.to_pylist()
    names = set(table.column_names) & set(SCHEMA.names)
    faults = [fault for name in names for index, row in enumerate(rows) for fault in _parse_cell(name, index, row)]
    if faults:
        raise ManifestError(sorted(faults, key=lambda fault: (fault.row or 0, fault.column or "")))
    return rows


def _check_header(table: pa.Table) -> None:
    """Check that a CSV has rows, and no column twice."""
    faults = [
        Fault(name, "the column twice", "each column once")
        for name, uses in Counter(table.column_names).items()
        if uses > 1
    ]
    if not faults and not table.num_rows:
        faults.append(Fault(None, "no rows", "at least one below the header"))
    if faults:
        raise ManifestError(faults)


def _parse_cell(name: str, index: int, row: dict[str, Any]) -> Iterator[Fault]:
    """Replace the text of a row's cell by its value, or yield the cell's fault."""
    try:
        row[name] = _cell_value(name, row[name])
    except ValueError as error:
        job_id = one_line(row["job_id"]) if row.get("job_id") else None
        yield Fault(name, shown(row[name]), str(error), row=index, job_id=job_id)


def _csv_bytes(uri: str) -> bytes:
    try:
        return storage.read_bytes(resolve_uri(uri, os.getcwd()))
    except OSError as error:
        raise UsageError(f"{shown(uri)} cannot be read: {error.strerror or error}") from error


def _csv_table(data: bytes) -> Any:
    try:
        # One block, or a long cell could straddle two.
        read = pa_csv.ReadOptions(block_size=max(len(data), 1), use_threads=False)
        # Every column as text; only an empty cell without quotes is null, so that "" can be an empty text.
        convert = pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in SCHEMA.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        parse = pa_csv.ParseOptions(newlines_in_values=True)
        return pa_csv.read_csv(pa.BufferReader(data), read, parse, convert)
    except pa.ArrowException as error:
        raise ManifestError([parse_fault(str(error), record_lines(data))]) from error


_WHOLE = re.compile(r"(?<=\d)\.0+$")
"""The end of an integer as pandas writes an integer of a column with a hole: 7.0."""


def _cell_value(name: str, text: str | None) -> object:
    """Parse a cell of a CSV into a plain value of its column.

    Raises:
        ValueError: the cell is wrong; the message is the expected form.
    """
    if text is None:
        return None
    type_ = SCHEMA.field(name).type
    if pa.types.is_string(type_):
        return text
    if pa.types.is_integer(type_):
        return _number(_WHOLE.sub("", text), int, "a whole number", 2**63)
    if pa.types.is_floating(type_):
        return _number(text, float, "a number", math.inf)
    if name == "targets" and not text.lstrip().startswith("["):
        return [text]
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise ValueError(f"JSON ({error})") from error
    _check_nested(name, value)
    return value


def _number(text: str, parse: Callable[[str], float], expected: str, limit: float) -> float:
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueError(expected) from error
    if abs(value) >= limit:
        raise ValueError(expected)
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("each key once")
    return dict(pairs)


def _check_nested(name: str, value: object) -> None:
    """Check a plain value against its column's type, by the inferred type: converting would drop unknown keys silently.

    Raises:
        ValueError: the value does not fit the column's type.
    """
    try:
        inferred = pa.array([value]).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{SCHEMA.field(name).type}, values of one kind") from error
    for fault in type_faults(inferred, SCHEMA.field(name).type, name):
        raise ValueError(f"{fault.expected} at {fault.column}, not {fault.got}")


def _moved(row: Mapping[str, object], source: str, target: str) -> dict[str, object]:
    """Rewrite the relative URIs of `row` from folder `source` to folder `target`."""

    def move(value: object) -> object:
        if isinstance(value, list):
            return [move(item) for item in value]
        if isinstance(value, dict):
            return {**value, "mask_uri": move(value.get("mask_uri"))}
        if not isinstance(value, str):
            return value
        try:
            return relative_uri(resolve_uri(value, source), target)
        except UriError:
            return value  # the check of the whole table reports it

    return {name: move(value) if name in _URI_COLUMNS else value for name, value in row.items()}
