"""Number the lines of a CSV: a fault names the line that an editor shows, not the row of a table made of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace

from vace_batch.errors import Fault
from vace_batch.manifest.cells import shown

_ROW = re.compile(r"\brow (\d+)\b")
_ARROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def record_lines(data: bytes) -> list[int]:
    """Return the line, from 1, on which each record begins, the header first; a blank line is no record."""
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""))
    lines = []
    line = 1
    try:
        for record in reader:
            if record:
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error:  # the lines up to here are right
        pass
    return lines


def fault_at_line(fault: Fault, lines: Sequence[int]) -> Fault:
    """Return a fault of a table's row as a fault of the CSV's line; rows count from 0, and `lines` has the header."""

    def name(row: int) -> str:
        return f"line {lines[row + 1]}" if row + 1 < len(lines) else f"row {row}"

    expected = _ROW.sub(lambda match: name(int(match[1])), fault.expected)
    line = lines[fault.row + 1] if fault.row is not None and fault.row + 1 < len(lines) else None
    return replace(fault, expected=expected, line=line)


def parse_fault(message: str, lines: Sequence[int]) -> Fault:
    """Return the fault of a CSV that cannot be parsed, from the message of pyarrow."""
    match = _ARROW.search(message)
    if match is None:
        return Fault(None, shown(message), "a CSV in UTF-8 with a header")
    record, wanted, got = (int(number) for number in match.groups())
    line = lines[record - 1] if record <= len(lines) else None
    return Fault(None, f"{got} cells", f"{wanted}, as in the header", row=record - 2, line=line)
