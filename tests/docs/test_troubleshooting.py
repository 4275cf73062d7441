"""Compare docs/troubleshooting.md with the error codes of rows and the checks of verdicts: none missing, none extra."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.console import DOCS, ROOT
from vace_batch.quality.verdict import REASONS

PAGE = (DOCS / "troubleshooting.md").read_text()
RAISERS = {"ClipError", "Trouble", "_failure", "Failure"}
"""What a row's failure is made by; the code is the first argument, or `code`."""

PASSED_ON = {
    "error.code",
    "trouble.code",
    "cause.code",
    "code",
}
"""Codes that come from another of them."""

MADE: dict[str, tuple[str, ...]] = {}
"""Codes that are put together."""


def codes() -> Iterator[tuple[str, str]]:
    """List every error code in the package, and its place."""
    for path in sorted((ROOT / "vace_batch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in RAISERS:
                named = [word.value for word in node.keywords if word.arg == "code"]
                for code in [*named, *node.args[:1]][:1]:
                    yield from ((one, f"{path.relative_to(ROOT)}:{node.lineno}") for one in _literal(code))


def _literal(code: ast.expr) -> Iterator[str]:
    if isinstance(code, ast.IfExp):
        yield from (*_literal(code.body), *_literal(code.orelse))
    elif isinstance(code, ast.Constant):
        yield str(code.value)
    elif (text := ast.unparse(code)) not in PASSED_ON:
        assert text in MADE, f"which codes is {text}? Say so in {__name__}"
        yield from MADE[text]


def told(heading: str) -> set[str]:
    """Codes that begin the table rows below a heading."""
    part = re.split(r"^## ", PAGE.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    return {word for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}


def test_every_word_that_a_row_fails_with_has_a_line() -> None:
    found = dict(codes())
    assert len(found) > 60
    assert {code: where for code, where in found.items() if code not in told("A row failed")} == {}, (
        "no line in the page"
    )
    assert told("A row failed") - found.keys() == set(), "no code of the product"


def test_every_check_of_a_verdict_has_a_line() -> None:
    assert told("A verdict is review or fail") == {*REASONS, "contract", "mask"}


@pytest.mark.parametrize("row", re.findall(r"^\| .* \|$", PAGE, re.MULTILINE))
def test_every_line_says_what_to_do(row: str) -> None:
    assert all(cell.strip() for cell in row.strip("|").split(" | "))
