"""What must hold between the columns of one row, and between rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vace_batch.manifest_schema import CONTROL_TASKS, CONTROLS, MASKED_TASKS, REFERENCE_TASKS
from vace_batch.manifest_values import shown
from vace_batch.naming import collision_key, safe_name

INVALID: Any = object()
"""In place of a value that has its own fault: given, but not to be looked into."""

UNKNOWN: Any = object()
"""In place of a value whose whole column cannot be read: nothing follows from it."""

MASK_SOURCES = ("boxes", "mask_uri", "targets", "points")
_SOURCES_COLUMN = "/".join(MASK_SOURCES)

RowFault = tuple[str, str, str]
"""Column, what came, what was expected."""


def row_faults(row: Mapping[str, Any]) -> Iterator[RowFault]:
    """Faults between the columns of one row of parsed values, INVALID or UNKNOWN."""
    yield from _mask_source(row)
    yield from _times(row)
    yield from _control(row)
    yield from _references(row)


def _mask_source(row: Mapping[str, Any]) -> Iterator[RowFault]:
    task, segmenter = row.get("task"), row.get("segmenter")
    given = [name for name in MASK_SOURCES if row.get(name)]
    if any(row[name] is UNKNOWN for name in given):
        return
    if len(given) > 1:
        yield (
            _SOURCES_COLUMN,
            " and ".join(given),
            "one source of masks a row (SAM: points, or boxes or targets + segmenter)",
        )
    elif not given and task in MASKED_TASKS:
        yield _SOURCES_COLUMN, "none of them", f"for {task} one source of masks"
    if segmenter and segmenter is not UNKNOWN and given in ([], ["mask_uri"]):
        yield (
            "segmenter",
            shown(segmenter) if segmenter is not INVALID else "weights",
            "boxes, targets or points to prompt it",
        )


def _times(row: Mapping[str, Any]) -> Iterator[RowFault]:
    start_s, end_s = row.get("start_s"), row.get("end_s")
    if end_s is None or end_s is INVALID or end_s is UNKNOWN:
        return
    start_s = start_s if isinstance(start_s, float) else 0.0
    if end_s <= start_s:
        yield "end_s", shown(end_s), f"more than start_s, {start_s:g} s"


def _control(row: Mapping[str, Any]) -> Iterator[RowFault]:
    task, control = row.get("task"), row.get("control")
    if task is INVALID or task is UNKNOWN or control is UNKNOWN:
        return
    if task not in CONTROL_TASKS:
        if control:
            yield (
                "control",
                "a control" if control is INVALID else shown(control),
                f"nothing for {task}; restyle takes it",
            )
        return
    if not control:
        yield "control", "null", f"for {task} one of {', '.join(CONTROLS)}"
    prompt, references = row.get("prompt"), row.get("reference_uris")
    if not references and (not prompt or (isinstance(prompt, str) and not prompt.strip())):
        yield "prompt", shown(prompt or ""), f"for {task} a prompt or references"


def _references(row: Mapping[str, Any]) -> Iterator[RowFault]:
    task, uris, boxes = row.get("task"), row.get("reference_uris"), row.get("reference_boxes")
    if task in MASKED_TASKS and task not in REFERENCE_TASKS and uris and uris is not UNKNOWN:
        yield "reference_uris", "references", f"nothing for {task}; {' and '.join(REFERENCE_TASKS)} take them"
    if not boxes or not isinstance(boxes, tuple) or uris is INVALID or uris is UNKNOWN:
        return
    if len(boxes) != len(uris or ()):
        yield "reference_boxes", f"{len(boxes)} boxes", f"one for each of the {len(uris or ())} references, or none"


class OutputNames:
    """Finds rows that would write the same file, on any file system."""

    def __init__(self) -> None:
        self._ids: dict[str, tuple[int, str, bool]] = {}
        self._outputs: dict[str, tuple[int, str]] = {}

    def add(self, row: int, job_id: str, output_uri: str | None) -> Iterator[RowFault]:
        """Takes a row with a good id, and yields what it clashes with among the rows before it."""
        name = safe_name(job_id)
        key = name if name.isascii() else collision_key(name)
        first_row, first_id, _ = self._ids.setdefault(key, (row, job_id, output_uri is None))
        if first_row != row:
            again = "" if first_id == job_id else f" in the form of {shown(first_id)}, with the same safe name"
            yield "job_id", shown(job_id), f"an id of its own; row {first_row} has it{again}"
        if output_uri is not None:
            other, _ = self._outputs.setdefault(collision_key(output_uri), (row, job_id))
            if other != row:
                yield "output_uri", shown(output_uri), f"a file of its own; row {other} writes it"

    def late_faults(self) -> Iterator[tuple[int, str, RowFault]]:
        """Clashes that need all rows: (row, job_id, fault)."""
        for key, (row, job_id) in self._outputs.items():
            folder, _, file = key.rpartition("/")
            other, _, is_default = self._ids.get(file.rpartition(".")[0], (row, "", False))
            if not folder and is_default and other != row:
                yield row, job_id, ("output_uri", shown(key), f"a file of its own; row {other} writes it by its job_id")
            while folder:
                if folder in self._outputs:
                    clash = f"no file as a folder; row {self._outputs[folder][0]} writes {shown(folder)}"
                    yield row, job_id, ("output_uri", shown(key), clash)
                folder = folder.rpartition("/")[0]
