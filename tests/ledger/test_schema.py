"""The record types: each field has its docstring, and the page on OUT shows all of them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from tests.support.records import check_records
from vace_batch.ledger import schema
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.results import RESULT_SCHEMA
from vace_batch.ledger.run_plan import write_plan

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "output.md"
_NOT_RECORDS = ("VerdictRow", "JobRow")  # the columns of the results


def fields() -> dict[str, tuple[str, list[tuple[str, str, str]]]]:
    """Return, by class, the docstring and (name, type, docstring) of each field of the class itself."""
    found = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            rows = []
            for field, doc in zip(node.body[1::2], node.body[2::2], strict=True):
                assert isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name), node.name
                assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant), f"{node.name}: no docstring"
                rows.append((field.target.id, ast.unparse(field.annotation), str(doc.value.value)))
            found[node.name] = ast.get_docstring(node) or "", rows
    return found


def records_section() -> str:
    """The section of the page, as the types have it."""
    parts = []
    for name, (docstring, rows) in fields().items():
        if name not in _NOT_RECORDS:
            table = "\n".join(f"| `{field}` | {_type(kind)} | {doc} |" for field, kind, doc in rows)
            parts.append(f"### {name}\n\n{docstring}\n\n| field | type | meaning |\n|---|---|---|\n{table}\n")
    return "\n".join(parts)


def columns_table() -> str:
    """The table of the results' columns, in their order."""
    classes = fields()
    docs = {field: doc for name in _NOT_RECORDS for field, _, doc in classes[name][1]}
    rows = [f"| `{column.name}` | {_arrow_type(str(column.type))} | {docs[column.name]} |" for column in RESULT_SCHEMA]
    assert docs.keys() - set(RESULT_SCHEMA.names) == {"status"}, "the partition"
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _type(annotation: str) -> str:
    return "`" + annotation.replace("'", '"').replace("|", "or") + "`"


def _arrow_type(name: str) -> str:
    return "`list<struct>`" if "struct" in name else "`" + name.replace("element: ", "").replace("item: ", "") + "`"


@pytest.mark.parametrize("part", [records_section, columns_table])
def test_the_page_shows_every_field(part: object) -> None:
    assert callable(part)
    assert part() in PAGE.read_text(), f"docs/reference/output.md: expected\n{part()}"


def test_a_record_with_another_field_is_found(tmp_path: Path) -> None:
    write_plan(str(tmp_path), [], {"manifest": "m", "manifest_digest": "d", "options": {}})
    assert check_records(tmp_path) == {"RunRecord"}
    Ledger(str(tmp_path)).commit("clip-00", {"status": "done", "words": []})
    with pytest.raises(AssertionError, match="is no ClipRecord"):
        check_records(tmp_path)
