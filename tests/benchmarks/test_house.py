"""Test the counts of benchmarks/house.py on a tree of three modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "house.py"

FIRST = '''"""What the first module does."""
from typing import Any

LIMIT = 1


def tangled(a: Any, b: int, c: int, d: int, e: int, f: int, g: int) -> int:
    """Add the numbers that are not 0."""
    if a and b and c and d:
        return 1 if e else 2
    for number in (a, b, c, d, e):
        if number or f or g:
            return number
    return [x for x in range(9) if x][0]
'''
SECOND = """LIMIT = 2


def late() -> int:
    from vace_batch import first

    return first.tangled(1, 2, 3, 4, 5, 6, 7)
"""
CONTRACT = """
[[tool.importlinter.contracts]]
type = "layers"
layers = ["second", "first"]
"""


def test_the_house_is_counted(tmp_path: Path) -> None:
    package = tmp_path / "vace_batch"
    (package / "room").mkdir(parents=True)
    for name, source in (("__init__", ""), ("first", FIRST), ("second", SECOND), ("room/__init__", "")):
        (package / f"{name}.py").write_text(source)
    (tmp_path / "pyproject.toml").write_text(CONTRACT)
    printed = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True).stdout
    rows = dict(line.rsplit(maxsplit=1) for line in printed.splitlines() if "complexity" not in line)
    assert list(rows.values()) == ["3", "4", "2", "0", "0", "2", "1", "1", "LIMIT", "1", "2", "1"], printed
    assert "complexity over 10                            1 (50.0%)" in printed


def test_a_circle_by_way_of_an_import_inside_a_function_is_counted(tmp_path: Path) -> None:
    package = tmp_path / "vace_batch"
    package.mkdir()
    sources = {"__init__": "", "first": FIRST + "\nfrom vace_batch import second\n", "second": SECOND}
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    (tmp_path / "pyproject.toml").write_text(CONTRACT)
    printed = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True).stdout
    assert "lazy imports counted            2" in printed
