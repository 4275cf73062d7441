"""Read a manifest: Parquet rows become `Job`s, or one error holds every fault of every row and column."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.errors import Fault, ManifestError, UsageError
from vace_batch.manifest.cells import PARSERS, Cell, Undecodable, one_line, shown
from vace_batch.manifest.column_types import is_whole_numbers, type_faults
from vace_batch.manifest.job import Job
from vace_batch.manifest.rules import INVALID, UNKNOWN, OutputNames, row_faults
from vace_batch.manifest.schema import FREE_PREFIX, MANIFEST_VERSION, REQUIRED, SCHEMA, VERSION_KEY
from vace_batch.manifest.uris import UriError, folder_of
from vace_batch.storage import files as storage

MAX_ROWS = 5_000_000

_BATCH_ROWS = 65_536
_EXACT_INTEGERS = 2**53
"""The largest integer up to which a float holds every integer."""
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""The index of a filtered or sorted table, which pandas writes as a column."""
_DEFAULTS = {
    part.name: part.default_factory() if part.default_factory is not MISSING else part.default
    for part in fields(Job)
    if part.name in PARSERS
}
_POSITION = {name: index for index, name in enumerate(SCHEMA.names)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without faults: its jobs in row order, the digest of the file, and the file's URI."""

    jobs: tuple[Job, ...]
    digest: str
    uri: str


def read_manifest(uri: str | os.PathLike[str]) -> Manifest:
    """Read and check a Parquet manifest at a path or URI.

    Raises:
        ManifestError: with every fault of every row and column, or one fault when the file cannot be read.
        UsageError: the URI is not allowed, or its scheme has no driver installed.
    """
    uri = os.fspath(uri)
    try:
        folder = folder_of(uri)
    except UriError as error:
        raise UsageError(f"manifest: got {shown(uri)}, expected {error}") from error
    data = _read(uri)
    if not data:
        raise _file_error("an empty file", "a Parquet manifest")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        if num_rows > MAX_ROWS:
            raise _file_error(f"{num_rows:,} rows", f"at most {MAX_ROWS:,}")
        names = [name for name in SCHEMA.names if name in schema.names]
        jobs = _jobs(schema, file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False), num_rows, folder)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _file_error(f"a file that starts with {data[:8]!r}", f"Parquet ({shown(str(error))})") from error
    return Manifest(jobs=jobs, digest=storage.digest(data), uri=uri)


def jobs_of(table: pa.Table, folder: str) -> tuple[Job, ...]:
    """Check a pyarrow table as if it were read from a manifest in `folder`.

    Raises:
        ManifestError: with every fault of every row and column.
    """
    return _jobs(table.schema, table.to_batches(_BATCH_ROWS), table.num_rows, folder)


def _read(uri: str) -> bytes:
    try:
        fs, path = storage.resolve(uri)
        if storage.is_local(uri) and os.path.exists(path) and not os.path.isfile(path):
            kind = "a folder" if os.path.isdir(path) else "a special file"
            raise _file_error(f"{kind}, {shown(uri)}", "a Parquet file")
        data: bytes = fs.cat_file(path)
        return data
    except FileNotFoundError as error:
        raise _file_error(f"no file at {shown(uri)}", "a Parquet file") from error
    except (ImportError, ValueError) as error:
        raise UsageError(f"{shown(uri)}: {error}") from error
    except OSError as error:
        raise _file_error(
            f"{shown(uri)}, which cannot be read ({error.strerror or error})", "a Parquet file"
        ) from error


def _file_error(got: str, expected: str) -> ManifestError:
    return ManifestError([_whole_file(None, got, expected)])


def _jobs(schema: pa.Schema, batches: Iterable[pa.RecordBatch], num_rows: int, folder: str) -> tuple[Job, ...]:
    faults_by_column = list(_schema_faults(schema))
    broken = {column for column, _ in faults_by_column}
    rows = _Rows(folder=folder, broken=tuple(name for name in SCHEMA.names if name in broken))
    rows.faults.extend(fault for _, fault in faults_by_column)
    if num_rows == 0:
        rows.faults.append(_whole_file(None, "no rows", "at least one row"))
    for batch in batches:
        rows.add(batch)
    rows.finish()
    if rows.faults:
        raise ManifestError(sorted(rows.faults, key=_order))
    return tuple(rows.jobs)


@dataclass(slots=True)
class _Rows:
    """Jobs and faults of the rows read so far; after the first fault no more jobs are made."""

    folder: str
    broken: tuple[str, ...]
    jobs: list[Job] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    count: int = 0
    outputs: OutputNames = field(default_factory=OutputNames)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next rows; a batch has at most `_BATCH_ROWS` rows, so that plain values need little memory."""
        faults: list[tuple[int, Fault]] = []
        rows = self._parse(batch, faults)
        for index, row in enumerate(rows):
            faults.extend((index, fault) for fault in row_faults(row))
            faults.extend((index, fault) for fault in self._clashes(self.count + index, row))
            if not faults and not self.faults:
                self.jobs.append(Job(row=self.count + index, **row))
        self.faults.extend(fault.of_row(self.count + index, _name_of(rows[index])) for index, fault in faults)
        self.count += len(rows)

    def _parse(self, batch: pa.RecordBatch, faults: list[tuple[int, Fault]]) -> list[dict[str, Any]]:
        """Parse the values of the next rows; add their faults, each with the row's index in the batch."""
        columns: dict[str, list[Any]] = {name: [UNKNOWN] * batch.num_rows for name in self.broken}
        for name in batch.schema.names:
            if name in PARSERS and name not in columns:
                values = _plain_values(batch.column(name))
                if is_whole_numbers(batch.column(name).type, SCHEMA.field(name).type):
                    values = [_whole(value) for value in values]
                columns[name] = _parse_column(name, values, self.folder, faults)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _clashes(self, number: int, row: Mapping[str, object]) -> Iterator[Fault]:
        """Find the earlier rows that write the same file as a row."""
        job_id, output_uri = row["job_id"], row.get("output_uri")
        if isinstance(job_id, str):
            yield from self.outputs.add(number, job_id, output_uri if isinstance(output_uri, str) else None)

    def finish(self) -> None:
        self.faults.extend(self.outputs.late_faults())


def _name_of(row: Mapping[str, object]) -> str | None:
    """Return a row's job_id as one line; None if the id has a fault of its own."""
    job_id = row["job_id"]
    return one_line(job_id) if isinstance(job_id, str) else None


def _whole(value: float | None) -> float | None:
    """Return an integer for a whole number, and None for NaN; a fraction stays, and is a fault."""
    if value is None or math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) <= _EXACT_INTEGERS else value


def _plain_values(array: pa.Array) -> list[Any]:
    try:
        values: list[Any] = array.to_pylist()
        return values
    except UnicodeDecodeError:
        return [_plain_value(scalar) for scalar in array]


def _plain_value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Undecodable()


def _parse_column(name: str, values: Sequence[object], folder: str, faults: list[tuple[int, Fault]]) -> list[Any]:
    """Parse the values of a column; equal texts and numbers are parsed once and share one object."""
    missing = INVALID if name in REQUIRED else _DEFAULTS[name]
    known: dict[Any, tuple[Any, list[Fault]]] = {}
    parsed = []
    for index, value in enumerate(values):
        if value is None:
            parsed.append(missing)
            if missing is INVALID:
                faults.append((index, Fault(name, "null", "a value")))
            continue
        if isinstance(value, list | dict):
            result, in_cell = _parse(name, value, folder)
        else:
            entry = known.get(value)
            if entry is None:
                entry = known[value] = _parse(name, value, folder)
            result, in_cell = entry
        parsed.append(result)
        if in_cell:
            faults.extend((index, fault) for fault in in_cell)
    return parsed


def _parse(name: str, value: object, folder: str) -> tuple[Any, list[Fault]]:
    if isinstance(value, Undecodable):
        return INVALID, [Fault(name, repr(value), "UTF-8 text")]
    if isinstance(value, float) and pa.types.is_integer(SCHEMA.field(name).type):
        return INVALID, [Fault(name, f"{value:g}", "a whole number")]
    cell = Cell(name, folder)
    result = PARSERS[name](value, cell)
    return (INVALID, cell.faults) if cell.faults else (result, [])


def _schema_faults(schema: pa.Schema) -> Iterator[tuple[str, Fault]]:
    """Find the columns that cannot be read, and other faults of the schema; yield (column, fault)."""
    version = (schema.metadata or {}).get(VERSION_KEY.encode(), b"1")
    if version != str(MANIFEST_VERSION).encode():
        yield "", _whole_file(None, f"schema version {shown(version.decode(errors='replace'))}", f"{MANIFEST_VERSION}")
    for name, times in Counter(schema.names).items():
        for fault in _column_faults(schema, name, times):
            yield name, fault
    for name in REQUIRED:
        if name not in schema.names:
            yield name, _whole_file(name, "no such column", f"a {SCHEMA.field(name).type} column")


def _column_faults(schema: pa.Schema, name: str, times: int) -> Iterator[Fault]:
    """Find faults of the column `name`, which the schema has `times` times."""
    if times > 1:
        yield _whole_file(name, f"the column {times} times", "each column once")
    elif name in _POSITION:
        actual, wanted = schema.field(name).type, SCHEMA.field(name).type
        if not is_whole_numbers(actual, wanted):
            for fault in type_faults(actual, wanted, name):
                yield _whole_file(fault.column, fault.got, fault.expected)
    elif not name.startswith(FREE_PREFIX) and not _PANDAS_INDEX.fullmatch(name):
        yield _whole_file(name, "an unknown column", _hint(name))


def _hint(name: str) -> str:
    """Suggest the manifest's column that an unknown column may mean."""
    near = difflib.get_close_matches(name, SCHEMA.names, n=1)
    return f"{near[0]}?" if near else f"a column of the manifest, or a name that starts with {FREE_PREFIX}"


def _whole_file(column: str | None, got: str, expected: str) -> Fault:
    return Fault(None if column is None else one_line(column), got, expected)


def _order(fault: Fault) -> tuple[int, int, str]:
    column = re.split(r"[.\[/]", fault.column or "", maxsplit=1)[0]
    return -1 if fault.row is None else fault.row, _POSITION.get(column, -1), fault.column or ""
