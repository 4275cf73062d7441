"""Test the rules between the columns of a row, and between rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.support.manifest_rows import BOX, GOOD, NONE, faults_of
from vace_batch.errors import Fault
from vace_batch.manifest.job import BoxKey, Expand, Extend
from vace_batch.manifest.reader import jobs_of
from vace_batch.manifest.rules import UNKNOWN, OutputNames, row_faults
from vace_batch.manifest.schema import SCHEMA

BOXES = (BoxKey(x=1, y=2, width=30, height=40),)
SOURCES = "boxes/mask_uri/targets/points"


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"boxes": None}, "boxes/mask_uri/targets/points"),
        ({"boxes": []}, "boxes/mask_uri/targets/points"),
        ({"mask_uri": "m.png"}, "boxes/mask_uri/targets/points"),
        ({"targets": ["car"], "segmenter": "sam2_t.pt"}, "boxes/mask_uri/targets/points"),
        ({**NONE, "mask_uri": "m.png", "segmenter": "sam2_t.pt"}, "segmenter"),
        ({"reference_uris": ["r.png"]}, "reference_uris"),
        ({"task": "inpainting", "reference_uris": ["r.png"], "reference_boxes": [BOX, BOX]}, "reference_boxes"),
        ({"task": "inpainting", "reference_boxes": [BOX]}, "reference_boxes"),
        ({"control": "gray"}, "control"),
        ({"task": "restyle", "prompt": "x"}, "control"),
        ({"task": "restyle", "control": "gray", "prompt": " "}, "prompt"),
        ({**NONE, "task": "restyle", "control": "gray", "prompt": "x", "segmenter": "sam2_t.pt"}, "segmenter"),
        ({"end_s": 0.0}, "end_s"),
        ({"start_s": 2.0, "end_s": 2.0}, "end_s"),
        ({"task": "composition", "compose": "extension+repaint"}, "extend"),
        (
            {"task": "restyle", "control": "depth+pose_body", "prompt": "p", "control_weights": "d.pt"},
            "control_weights",
        ),
    ],
)
def test_columns_that_do_not_fit_are_one_fault_that_names_its_column(change: dict[str, Any], column: str) -> None:
    good = {**GOOD, "job_id": "good"}
    assert [(fault.row, fault.column) for fault in faults_of(good, {**GOOD, **change}, typed=True)] == [(1, column)]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ([{}, {}], "job_id"),
        ([{"output_uri": "x/a.mp4"}, {"job_id": "b", "output_uri": "X/A.mp4"}], "output_uri"),
        ([{"output_uri": "cafe\u0301.mp4"}, {"job_id": "b", "output_uri": "caf\u00e9.mp4"}], "output_uri"),
        ([{"job_id": "b"}, {"output_uri": "b.mkv"}], "output_uri"),
        ([{"output_uri": "x.mp4"}, {"job_id": "b", "output_uri": "x.mp4/y.mp4"}], "output_uri"),
    ],
)
def test_rows_that_would_write_one_file_are_faults(changes: list[dict[str, Any]], column: str) -> None:
    (fault,) = faults_of(*({**GOOD, **change} for change in changes), typed=True)
    assert (fault.row, fault.column) == (1, column) and "row 0" in fault.expected


def test_ids_that_differ_by_case_or_normalisation_are_not_faults() -> None:
    rows = [
        {**GOOD, "job_id": job_id} for job_id in ("dup", "DUP", "caf\u00e9", "cafe\u0301", "a/b", "../../escape", "CON")
    ]
    rows.append({**GOOD, "job_id": "own", "output_uri": "own.mp4"})
    assert len(jobs_of(pa.Table.from_pylist(rows), "/data")) == 8


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"task": "t2v", "prompt": " "}, Fault("prompt", "' '", "a prompt for t2v")),
        ({"task": "t2v", "prompt": "a lake", "boxes": BOXES}, Fault(SOURCES, "boxes", "no source of masks for t2v")),
        ({"task": "extension"}, Fault("extend", "null", "a value for extension, such as {'mode': 'first'}")),
        ({"task": "composition"}, Fault("compose", "null", "a value for composition, such as swap")),
        (
            {"task": "composition", "compose": "swap", "reference_uris": ("r.png",)},
            Fault(SOURCES, "none of them", "one source of masks for compose swap"),
        ),
        (
            {"task": "composition", "compose": "reference"},
            Fault("reference_uris", "none", "1..3 references for reference"),
        ),
        ({"task": "r2v", "reference_uris": ("r.png",) * 4}, Fault("reference_uris", "4 references", "1..3 references")),
        (
            {
                "task": "composition",
                "compose": "repaint+extension",
                "boxes": BOXES,
                "extend": Extend(),
                "control": "gray",
            },
            Fault("control", "'gray'", "no control for compose repaint+extension"),
        ),
        (
            {"task": "composition", "compose": "extension+control", "control": "gray", "extend": Extend(seconds=1.0)},
            Fault("prompt", "''", "a prompt or references for composition"),
        ),
        (
            {"task": "restyle", "control": "gray+depth", "prompt": "night"},
            Fault(SOURCES, "none of them", "a source of masks, where the second control applies"),
        ),
        (
            {"task": "restyle", "control": "layout_bbox", "prompt": "night"},
            Fault("boxes", "null", "the boxes whose outlines layout_bbox draws"),
        ),
        (
            {"task": "outpainting", "expand": Expand(left=0.5), "start_s": 1.0},
            Fault("start_s", "1.0", "no value where the frame grows: every frame of the clip grows"),
        ),
        (
            {"task": "removal", "boxes": BOXES, "expand": Expand(left=0.5, inner=True)},
            Fault("expand", "values", "no value for removal: only outpainting and composition take expand"),
        ),
        (
            {"task": "inpainting", "boxes": BOXES, "reference_uris": ("r.png",), "reference_mode": "subject"},
            Fault("reference_mode", "subject", "reference_boxes or reference_mask_uris that mark the subject"),
        ),
    ],
)
def test_columns_that_do_not_fit_together_are_a_fault(row: dict[str, Any], fault: Fault) -> None:
    assert fault in list(row_faults(row))


@pytest.mark.parametrize(
    "row",
    [
        {"task": "removal", "boxes": BOXES},
        {"task": "t2v", "prompt": "a lake"},
        {"task": "outpainting"},
        {"task": "outpainting", "expand": Expand(left=0.5, inner=True), "start_s": 1.0, "end_s": 2.0},
        {"task": "r2v", "reference_uris": ("r.png",) * 3},
        {"task": "composition", "compose": "move", "control": "gray", "extend": Extend(), "prompt": "a ball"},
        {"task": "restyle", "control": "gray+depth", "boxes": BOXES, "prompt": "night"},
    ],
)
def test_columns_that_fit_together_have_no_fault(row: dict[str, Any]) -> None:
    assert list(row_faults(row)) == []


@pytest.mark.parametrize("column", SCHEMA.names)
def test_no_fault_follows_from_a_column_that_cannot_be_read(column: str) -> None:
    row = {"task": "removal", "boxes": BOXES, "segmenter": "sam2_t.pt", "start_s": 1.0, "end_s": 2.0}
    assert list(row_faults({**row, column: UNKNOWN})) == []


def test_the_first_and_the_last_row_of_a_clash_of_outputs() -> None:
    outputs = OutputNames()
    assert list(outputs.add(0, "a", None)) == []
    assert list(outputs.add(1, "b", "a.mp4")) == []
    (clash,) = outputs.late_faults()
    assert (clash.row, clash.job_id, clash.column) == (1, "b", "output_uri") and "row 0" in clash.expected
