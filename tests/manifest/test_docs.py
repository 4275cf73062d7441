"""Test that the column dictionary and the examples in manifests/ agree with the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vace_batch.manifest.choices import TASKS
from vace_batch.manifest.docs import EXAMPLES, MANIFESTS, column_dictionary, example_table
from vace_batch.manifest.reader import read_manifest
from vace_batch.manifest.schema import SCHEMA

AGAIN = "out of date: run `python -m vace_batch.manifest.docs`"


def test_the_column_dictionary_is_up_to_date() -> None:
    assert (MANIFESTS / "README.md").read_text(encoding="utf-8") == column_dictionary(), AGAIN


def test_the_column_dictionary_names_every_column_and_part() -> None:
    lines = [line for line in column_dictionary().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines if "." not in line.split("`")[1]] == SCHEMA.names
    assert all(line.replace("\\|", "").count("|") == 8 for line in lines)
    assert any(line.startswith("| `protect.boxes[].width` | double |") for line in lines)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_up_to_date_and_valid(name: str) -> None:
    path = MANIFESTS / "examples" / f"{name}.parquet"
    table = pq.read_table(path)
    assert table.equals(example_table(name), check_metadata=True), AGAIN
    assert all(job.task in TASKS for job in read_manifest(path).jobs)


@pytest.mark.parametrize("page", [MANIFESTS / "README.md", MANIFESTS.parent / "README.md"], ids=["columns", "project"])
def test_a_page_shows_how_a_manifest_is_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "write_table" in block]
    exec(code, {})
    written = pq.read_table("manifest.parquet").to_pylist()
    named = [name for name in SCHEMA.names if f'"{name}"' in code]
    assert len(read_manifest("manifest.parquet").jobs) == len(written)
    assert all(any(row[name] is not None for row in written) for name in named), "pyarrow left a column out"


def test_there_are_no_other_examples() -> None:
    assert {path.stem for path in (MANIFESTS / "examples").iterdir()} == set(EXAMPLES)
