"""Test the properties of a job, and the results that each column declares to change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pyarrow as pa
import pytest

from vace_batch.manifest.job import Decides, Dilation, Job, Protect, identity_fields, split_controls
from vace_batch.manifest.reader import jobs_of

GOOD = {"job_id": "a", "video_uri": "a.mp4", "task": "removal", "targets": ["person"]}
BOX = {"x": 1, "y": 2, "width": 3, "height": 4.5}


def job_of(**row: Any) -> Job:
    (job,) = jobs_of(pa.Table.from_pylist([{**GOOD, **row}]), "/data")
    return job


@pytest.mark.parametrize("column", dataclasses.fields(Job), ids=lambda column: column.name)
def test_every_column_declares_what_it_decides(column: dataclasses.Field[Any]) -> None:
    assert column.metadata["decides"] in get_args(Decides)
    assert column.metadata.get("counts", "value") in ("value", "fingerprint", "resolved")


def test_every_file_counts_by_its_content_and_never_by_its_name() -> None:
    job = Job(
        job_id="j",
        video_uri="v",
        task="removal",
        mask_uri="m",
        protect=Protect(mask_uri="p"),
        reference_uris=("r", "s"),
        reference_mask_uris=("t",),
    )
    named = {file.fingerprint_name: (file.cell, file.uri, file.decides) for file in job.files()}
    assert named == {
        "video_uri": ("video_uri", "v", "plan"),
        "mask_uri": ("mask_uri", "m", "masks"),
        "protect.mask_uri": ("protect.mask_uri", "p", "masks"),
        "reference_uris.0": ("reference_uris[0]", "r", "pixels"),
        "reference_uris.1": ("reference_uris[1]", "s", "pixels"),
        "reference_mask_uris.0": ("reference_mask_uris[0]", "t", "pixels"),
    }
    inputs = [column for column in dataclasses.fields(Job) if "_uri" in column.name and column.name != "output_uri"]
    parts = [column for column in dataclasses.fields(Protect) if "_uri" in column.name]
    assert {column.metadata["counts"] for column in inputs + parts} == {"fingerprint"}


def test_identity_fields_are_json_and_leave_out_what_decides_no_pixel() -> None:
    job = job_of(sampling={"flow_shift": 5}, protect={"targets": ["clock"]}, dilate="6px")
    fields = identity_fields(job)
    assert json.loads(json.dumps(fields)) == fields
    decide_nothing = {"job_id", "row", "priority", "output_uri", "preset", "expect_found"}
    by_content = {"video_uri", "mask_uri", "reference_uris", "reference_mask_uris", "loras"}
    assert set(fields) == {f.name for f in dataclasses.fields(Job)} - decide_nothing - by_content
    assert set(fields["protect"]) == {"targets", "boxes"}
    assert identity_fields(job_of(job_id="b", priority=4, output_uri="z.mp4", x_note="n")) == identity_fields(job_of())
    assert identity_fields(job_of(video_uri="b.mp4")) == identity_fields(job_of())
    assert identity_fields(job_of(seed=1)) != identity_fields(job_of())
    boxes = {"targets": None, "boxes": [{**BOX, "x": 1.0}]}
    assert identity_fields(job_of(**boxes)) == identity_fields(job_of(targets=None, boxes=[BOX]))


@pytest.mark.parametrize(
    ("row", "has_source", "protects", "needs_pixels"),
    [
        ({}, False, False, False),
        ({"mask_uri": "m.png"}, True, False, False),
        ({"targets": ("car",)}, True, False, True),
        ({"protect": Protect(targets=("car",))}, False, True, True),
        ({"protect": Protect(mask_uri="m.png")}, False, True, False),
    ],
)
def test_questions_about_a_job(row: dict[str, Any], has_source: bool, protects: bool, needs_pixels: bool) -> None:
    job = Job(job_id="j", video_uri="v", task="restyle", **row)
    assert (job.has_mask_source, job.protects, job.needs_pixels) == (has_source, protects, needs_pixels)


@pytest.mark.parametrize(
    ("row", "dilation"),
    [
        ({"mask_uri": "m.png"}, Dilation(px=3)),
        ({"targets": ("car",)}, Dilation(px=6)),
        ({"mask_uri": "m.png", "dilate": Dilation(tokens=1)}, Dilation(tokens=1)),
        ({}, Dilation(px=6)),
    ],
)
def test_masks_grow_little_where_a_file_is_their_only_source(row: dict[str, Any], dilation: Dilation) -> None:
    assert Job(job_id="j", video_uri="v", task="removal", **row).mask_dilation == dilation


@pytest.mark.parametrize(
    ("compose", "processes"),
    [
        (None, ()),
        ("reference", ()),
        ("move", ("extension", "control")),
        ("repaint", ("repaint",)),
        ("control+repaint", ("control", "repaint")),
    ],
)
def test_processes_of_a_composition(compose: str | None, processes: tuple[str, ...]) -> None:
    assert Job(job_id="j", video_uri="v", task="composition", compose=compose).processes == processes


def test_controls_are_split_in_order() -> None:
    assert [split_controls(text) for text in (None, "gray", "flow+depth")] == [(), ("gray",), ("flow", "depth")]
