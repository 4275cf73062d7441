"""Test the paths and names of docs/decisions against the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/decisions").glob("0*.md"))
NAME_THEN_MODULE = re.compile(r"`([A-Za-z_.]+)` (?:in|of) `([a-z_/]+\.py)`")


def names(module: Path) -> set[str]:
    """Return the names that a module defines: functions, constants, classes and their methods."""
    defined: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        if isinstance(node, ast.ClassDef):
            defined |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return defined


def where_table() -> list[list[str]]:
    text = (ROOT / "docs/decisions/0029-rooms.md").read_text()
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| Where")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem[:4])
def test_a_decision_names_modules_that_exist(page: Path) -> None:
    paths = re.findall(r"`((?:[a-z_.]+/)+[a-z_]+\.py)`", page.read_text())
    assert [path for path in paths if not any((ROOT / top / path).exists() for top in ("", "vace_batch"))] == []


def test_the_index_lists_every_decision_in_order() -> None:
    text = (ROOT / "docs/decisions/README.md").read_text()
    assert re.findall(r"\((0.*?\.md)\)", text) == [page.name for page in PAGES]


def test_the_table_of_places_names_functions_that_exist() -> None:
    rows = where_table()
    assert len(rows) == 12
    for question, modules, function in rows:
        paths = re.findall(r"`(.+?)`", modules)
        defined = {name for path in paths for name in names(ROOT / "vace_batch" / path)}
        first = re.match("`(.+?)`", function)
        assert first and first[1] in defined, question
        for name, path in NAME_THEN_MODULE.findall(function):
            assert name in names(ROOT / "vace_batch" / path), question
