"""Check rules between the columns of one row, and between rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vace_batch.errors import Fault
from vace_batch.manifest.cells import one_line, shown
from vace_batch.manifest.choices import (
    CONTROL_TASKS,
    CONTROLS,
    EXPAND_TASKS,
    EXTEND_TASKS,
    MASKED_TASKS,
    MAX_R2V_REFERENCES,
    PROTECT_TASKS,
    REFERENCE_TASKS,
    TASKS,
    UNMASKED_TASKS,
)
from vace_batch.manifest.job import Expand, Extend, Protect, split_controls, split_processes
from vace_batch.manifest.output_names import collision_key, safe_name

INVALID: object = object()
"""Stands for a value that has a fault of its own: rules treat the value as given and do not read it."""

UNKNOWN: object = object()
"""Stands for a value of a column that cannot be read: no rule draws a conclusion from the value."""

MASK_SOURCES = ("boxes", "mask_uri", "targets", "points")
_SOURCES_COLUMN = "/".join(MASK_SOURCES)

_TAKERS = {
    "control": CONTROL_TASKS,
    "control_weights": CONTROL_TASKS,
    "expand": EXPAND_TASKS,
    "extend": EXTEND_TASKS,
    "compose": ("composition",),
    "protect": PROTECT_TASKS,
}
_NOT_GIVEN = (None, UNKNOWN, Protect())


def row_faults(row: Mapping[str, object]) -> Iterator[Fault]:
    """Find faults between the columns of one row, whose values are parsed, INVALID or UNKNOWN."""
    yield from _mask_source(row)
    yield from _times(row)
    yield from _task_columns(row)
    yield from _growth(row)
    yield from _control(row)
    yield from _control_weights(row)
    yield from _extension(row)
    yield from _references(row)


def _is_unclear(value: object) -> bool:
    """Test whether a value stands for a cell with a fault or an unreadable cell."""
    return value is INVALID or value is UNKNOWN


def _is_blank(text: object) -> bool:
    return not text or (isinstance(text, str) and not text.strip())


def _mask_sources(row: Mapping[str, object]) -> list[str]:
    """List the columns of mask sources that have a value in a row."""
    return [name for name in MASK_SOURCES if row.get(name)]


def _processes(row: Mapping[str, object]) -> tuple[str, ...]:
    """Return the processes of a composition; empty for other tasks and for a column with a fault of its own."""
    compose = row.get("compose")
    if row.get("task") != "composition" or not isinstance(compose, str):
        return ()
    return split_processes(compose)


def _controls(row: Mapping[str, object]) -> tuple[str, ...]:
    control = row.get("control")
    return split_controls(control) if isinstance(control, str) else ()


def _mask_source(row: Mapping[str, object]) -> Iterator[Fault]:
    given = _mask_sources(row)
    if any(row[name] is UNKNOWN for name in given):
        return
    yield from _mask_source_count(row, given)
    if "layout_bbox" in _controls(row) and given != ["boxes"]:
        yield Fault("boxes", " and ".join(given) or "null", "the boxes whose outlines layout_bbox draws")
    segmenter = row.get("segmenter")
    if segmenter and segmenter is not UNKNOWN and given in ([], ["mask_uri"]):
        yield Fault(
            "segmenter",
            shown(segmenter) if segmenter is not INVALID else "weights",
            "boxes, targets or points to prompt it",
        )


def _mask_source_count(row: Mapping[str, object], given: Sequence[str]) -> Iterator[Fault]:
    """Check that a row has one source of masks where its task needs one, and none where its task takes none."""
    task = row.get("task")
    if len(given) > 1:
        yield Fault(
            _SOURCES_COLUMN,
            " and ".join(given),
            "one source of masks a row (SAM: points, or boxes or targets + segmenter)",
        )
    elif given and task in UNMASKED_TASKS:
        yield Fault(_SOURCES_COLUMN, given[0], f"no source of masks for {task}")
    elif not given and (needer := _mask_needed_by(row)):
        yield Fault(_SOURCES_COLUMN, "none of them", f"one source of masks for {needer}")


def _mask_needed_by(row: Mapping[str, object]) -> str | None:
    if row.get("task") in MASKED_TASKS:
        return str(row["task"])
    if "repaint" in _processes(row) and row.get("compose") != "expand":
        return f"compose {row['compose']}"
    return "layout_track" if "layout_track" in _controls(row) else None


def _times(row: Mapping[str, object]) -> Iterator[Fault]:
    start_s, end_s = row.get("start_s"), row.get("end_s")
    if not isinstance(end_s, float):
        return
    start_s = start_s if isinstance(start_s, float) else 0.0
    if end_s <= start_s:
        yield Fault("end_s", shown(end_s), f"more than start_s, {start_s:g} s")


def _task_columns(row: Mapping[str, object]) -> Iterator[Fault]:
    """Check columns that only some tasks take, and columns that a task needs."""
    task = row.get("task")
    if _is_unclear(task):
        return
    yield from _foreign_columns(row, task)
    for column, needer, such in (("extend", "extension", "{'mode': 'first'}"), ("compose", "composition", "swap")):
        if task == needer and row.get(column) is None:
            yield Fault(column, "null", f"a value for {task}, such as {such}")
    prompt = row.get("prompt")
    if task == "t2v" and isinstance(prompt, str) and not prompt.strip():
        yield Fault("prompt", shown(prompt), "a prompt for t2v")


def _foreign_columns(row: Mapping[str, object], task: object) -> Iterator[Fault]:
    """Find columns with a value that the task does not take."""
    for column, takers in _TAKERS.items():
        value = row.get(column)
        if value not in _NOT_GIVEN and task not in takers:
            take = "takes" if len(takers) == 1 else "take"
            yield Fault(
                column, _given(column, value), f"no value for {task}: only {' and '.join(takers)} {take} {column}"
            )


def _given(column: str, value: object) -> str:
    """Describe a value that should not be given."""
    if value is INVALID:
        return f"a {column}"
    return shown(value) if isinstance(value, str) else "values"


def _growth(row: Mapping[str, object]) -> Iterator[Fault]:
    """Check that a row whose frame grows has no column that needs pixels of the source everywhere."""
    if _is_unclear(row.get("task")):
        return
    expand = row.get("expand")
    by_itself = row.get("task") == "outpainting" or row.get("compose") == "expand"
    grows = not expand.inner if isinstance(expand, Expand) else expand is None and by_itself
    if not grows:
        return
    for column in ("start_s", "end_s"):
        if isinstance(row.get(column), float):
            yield Fault(column, shown(row[column]), "no value where the frame grows: every frame of the clip grows")
    if row.get("control"):
        yield Fault(
            "control", "a control", "no control where the frame grows: controls have no pixels outside the source"
        )


def _control(row: Mapping[str, object]) -> Iterator[Fault]:
    if _is_unclear(row.get("control")):
        return
    yield from _control_count(row)
    task, prompt = row.get("task"), row.get("prompt")
    is_controlled = task == "restyle" or "control" in _processes(row)
    if is_controlled and not row.get("reference_uris") and _is_blank(prompt):
        yield Fault("prompt", shown(prompt or ""), f"a prompt or references for {task}")


def _control_count(row: Mapping[str, object]) -> Iterator[Fault]:
    """Check that a row has as many controls as its task or composition needs."""
    task, control, processes = row.get("task"), row.get("control"), _processes(row)
    wanted = 1 if task == "restyle" else processes.count("control")
    if wanted and not control:
        yield Fault("control", "null", f"one of {', '.join(CONTROLS)} for {task}")
    elif processes and control and len(_controls(row)) != wanted:
        expected = ("no control", "one control", "two controls joined by '+'")[wanted]
        yield Fault("control", shown(control), f"{expected} for compose {row['compose']}")
    elif len(_controls(row)) == 2 and not _mask_sources(row):
        yield Fault(_SOURCES_COLUMN, "none of them", "a source of masks, where the second control applies")


def _control_weights(row: Mapping[str, object]) -> Iterator[Fault]:
    kinds = {name.removesuffix("_body") for name in _controls(row)}
    if kinds == {"depth", "pose"} and row.get("control_weights") not in (None, UNKNOWN):
        yield Fault(
            "control_weights", "one file", "no value for depth and pose together: give the run --depth and --pose"
        )


def _extension(row: Mapping[str, object]) -> Iterator[Fault]:
    processes, extend = _processes(row), row.get("extend")
    if extend is None and "extension" in processes:
        yield Fault("extend", "null", f"a value for compose {row['compose']}")
    if not isinstance(extend, Extend):
        return
    if row.get("task") == "composition" and processes and "extension" not in processes:
        yield Fault("extend", "values", f"no value for compose {row['compose']}")
    if extend.seconds is not None and "control" in processes:
        yield Fault(
            "extend.seconds", shown(extend.seconds), "no value with a control, which has no pixels of added frames"
        )


def _references(row: Mapping[str, object]) -> Iterator[Fault]:
    uris = row.get("reference_uris")
    if _is_unclear(uris):
        return
    task = row.get("task")
    count = len(uris) if isinstance(uris, tuple) else 0
    if count and task in TASKS and task not in REFERENCE_TASKS:
        takers = " and ".join(REFERENCE_TASKS)
        yield Fault("reference_uris", "references", f"no value for {task}: only {takers} take references")
    yield from _reference_count(row, count)
    yield from _reference_marks(row, count)


def _reference_count(row: Mapping[str, object], count: int) -> Iterator[Fault]:
    """Check that a row has no more and no fewer references than its task takes."""
    task = row.get("task")
    if not count and (task == "r2v" or row.get("compose") in ("reference", "animate", "swap")):
        yield Fault("reference_uris", "none", f"1..{MAX_R2V_REFERENCES} references for {row.get('compose') or task}")
    if count > MAX_R2V_REFERENCES and (task == "r2v" or row.get("compose") == "reference"):
        yield Fault("reference_uris", f"{count} references", f"1..{MAX_R2V_REFERENCES} references")


def _reference_marks(row: Mapping[str, object], count: int) -> Iterator[Fault]:
    """Check the boxes and masks that mark the subjects of the references."""
    for column, word in (("reference_boxes", "boxes"), ("reference_mask_uris", "masks")):
        given = row.get(column)
        if given and isinstance(given, tuple) and len(given) != count:
            yield Fault(column, f"{len(given)} {word}", f"{word} for each of the {count} references, or no value")
    if row.get("reference_mode") == "subject" and not (row.get("reference_boxes") or row.get("reference_mask_uris")):
        yield Fault("reference_mode", "subject", "reference_boxes or reference_mask_uris that mark the subject")


class OutputNames:
    """A search for rows that would write the same file, on any file system."""

    def __init__(self) -> None:
        self._ids: dict[str, tuple[int, str, bool]] = {}
        self._outputs: dict[str, tuple[int, str]] = {}

    def add(self, row: int, job_id: str, output_uri: str | None) -> Iterator[Fault]:
        """Add a row with a valid job_id; yield its clashes with earlier rows."""
        name = safe_name(job_id)
        key = name if name.isascii() else collision_key(name)
        first_row, first_id, _ = self._ids.setdefault(key, (row, job_id, output_uri is None))
        if first_row != row:
            again = "" if first_id == job_id else f" in the form of {shown(first_id)}, with the same safe name"
            yield Fault("job_id", shown(job_id), f"a unique id; row {first_row} has the same id{again}")
        if output_uri is not None:
            other, _ = self._outputs.setdefault(collision_key(output_uri), (row, job_id))
            if other != row:
                yield Fault("output_uri", shown(output_uri), f"a file of its own; row {other} writes this file")

    def late_faults(self) -> Iterator[Fault]:
        """Find the clashes that show only when every row is known."""
        for key, (row, job_id) in self._outputs.items():
            for expected in self._clashes(key, row):
                yield Fault("output_uri", shown(key), expected, row=row, job_id=one_line(job_id))

    def _clashes(self, key: str, row: int) -> Iterator[str]:
        folder, _, file = key.rpartition("/")
        other, _, is_default = self._ids.get(file.rpartition(".")[0], (row, "", False))
        if not folder and is_default and other != row:
            yield f"a file of its own; row {other} writes this file, named by its job_id"
        while folder:
            if folder in self._outputs:
                yield f"a folder that is not a file; row {self._outputs[folder][0]} writes {shown(folder)}"
            folder = folder.rpartition("/")[0]
