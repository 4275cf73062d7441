"""Test the reader with random tables: the reader returns jobs or raises ManifestError, nothing else."""

from __future__ import annotations

import string
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vace_batch.errors import ManifestError
from vace_batch.manifest.reader import jobs_of, read_manifest
from vace_batch.manifest.schema import SCHEMA

GOOD = {"video_uri": "a.mp4", "task": "removal", "boxes": [{"x": 1, "y": 2.5, "width": 30, "height": 40}]}
TYPES = st.recursive(
    st.sampled_from(
        [pa.null(), pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.binary()]
    )
    | st.sampled_from([pa.string(), pa.large_string(), pa.timestamp("us"), pa.dictionary(pa.int8(), pa.string())]),
    lambda inner: (
        st.builds(pa.list_, inner)
        | st.dictionaries(
            st.sampled_from(["x", "y", "width", "height", "frame", "z"]), inner, min_size=1, max_size=4
        ).map(lambda parts: pa.struct(list(parts.items())))
    ),
    max_leaves=4,
)


def _values(type_: Any) -> st.SearchStrategy[Any]:
    """Draw values of an Arrow type, including null."""
    if pa.types.is_list(type_):
        return st.none() | st.lists(_values(type_.value_type), max_size=3)
    if pa.types.is_struct(type_):
        return st.none() | st.fixed_dictionaries({part.name: _values(part.type) for part in type_})
    if pa.types.is_integer(type_):
        low, high = (
            (0, 2**64 - 1) if type_ == pa.uint64() else (-(2 ** (type_.bit_width - 1)), 2 ** (type_.bit_width - 1) - 1)
        )
        return st.none() | st.integers(low, high)
    if pa.types.is_timestamp(type_):
        return st.none() | st.integers(-(2**62), 2**62)
    if pa.types.is_floating(type_):
        return st.none() | st.floats(width=type_.bit_width)
    if pa.types.is_binary(type_):
        return st.none() | st.binary(max_size=4)
    if pa.types.is_boolean(type_):
        return st.none() | st.booleans()
    return st.none() if pa.types.is_null(type_) else st.none() | st.text(max_size=8) | st.sampled_from(WORDS)


WORDS = ["removal", "restyle", "a.mp4", "..", "s3://b/k", "6px", "hull", "gray", "max4", "x" * 5000, "\0", "x.mp4"]


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw tables with columns of the manifest, of the column's type or of any type, with any values."""
    names = draw(st.lists(st.sampled_from([*SCHEMA.names, "x_free", "promt"]), unique=True, max_size=8))
    names = [*dict.fromkeys([*draw(st.sampled_from([["job_id", "video_uri", "task"], []])), *names])]
    rows = draw(st.integers(0, 4))
    columns = {}
    for name in names:
        own = name in SCHEMA.names and draw(st.booleans())
        type_ = SCHEMA.field(name).type if own else draw(TYPES)
        columns[name] = pa.array(draw(st.lists(_values(type_), min_size=rows, max_size=rows)), type_)
    return pa.table(columns)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(tables())
def test_random_tables_are_read_or_refused_with_printable_faults(table: Any) -> None:
    try:
        jobs = jobs_of(table, "/data")
    except ManifestError as error:
        assert error.faults and all(str(fault).isprintable() for fault in error.faults)
    else:
        assert len(jobs) == table.num_rows > 0


@settings(max_examples=150)
@given(at=st.floats(0, 1), change=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_damaged_parquet_is_read_or_refused(at: float, change: bytes, cut: bool, tmp_path_factory: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**GOOD, "job_id": name} for name in string.ascii_lowercase]), sink)
    data = sink.getvalue().to_pybytes()
    start = int(at * (len(data) - 1))
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(data[:start] if cut else data[:start] + change + data[start + len(change) :])
    try:
        read_manifest(path)
    except ManifestError as error:
        assert all(str(fault).isprintable() for fault in error.faults)
