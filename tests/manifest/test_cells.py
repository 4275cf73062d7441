"""Test that a cell of a manifest becomes a value of a job, or a fault that names the cell."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from tests.support.manifest_rows import BOX, GOOD, NONE, faults_of, job_of
from vace_batch.errors import Fault
from vace_batch.manifest.cells import PARSERS, Cell, shown
from vace_batch.manifest.job import BoxKey, Dilation, Expand, Extend, Job, LoraRef, Pick, PointKey, Protect, Sampling
from vace_batch.manifest.schema import SCHEMA


def test_every_column_is_a_field_of_job_and_has_a_parser() -> None:
    fields = {field.name for field in dataclasses.fields(Job)} - {"row"}
    assert set(SCHEMA.names) == fields == set(PARSERS)
    assert all(field.metadata[b"description"] for field in SCHEMA)


def test_a_full_row_becomes_a_job() -> None:
    job = job_of(
        boxes=[{**BOX, "frame": 0, "object_id": 1}, {**BOX, "frame": 8, "object_id": 1}, BOX],
        protect={"targets": ["clock"], "boxes": [BOX], "mask_uri": "keep.png"},
        segmenter="sam2_t.pt",
        mask_shape="hull",
        dilate="5%",
        prompt="an empty street",
        negative_prompt="",
        start_s=1.5,
        end_s=2,
        seed=2**63 - 1,
        priority=-3,
        model="tiny",
        sampling={
            "num_inference_steps": 20,
            "flow_shift": 5,
            "mask_rule": "max4",
            "max_frames": 49,
            "overlap_frames": 48,
        },
        output_uri="x/a.mp4",
        x_note="kept by nobody",
    )
    box = BoxKey(x=1.0, y=2.5, width=30.0, height=40.0)
    assert job == Job(
        job_id="a",
        video_uri="/data/a.mp4",
        task="removal",
        boxes=(
            dataclasses.replace(box, frame=0, object_id=1),
            dataclasses.replace(box, frame=8, object_id=1),
            box,
        ),
        protect=Protect(targets=("clock",), boxes=(box,), mask_uri="/data/keep.png"),
        segmenter="sam2_t.pt",
        mask_shape="hull",
        dilate=Dilation(percent=5),
        prompt="an empty street",
        negative_prompt="",
        start_s=1.5,
        end_s=2.0,
        seed=2**63 - 1,
        priority=-3,
        model="tiny",
        sampling=Sampling(num_inference_steps=20, flow_shift=5.0, mask_rule="max4", max_frames=49, overlap_frames=48),
        output_uri="x/a.mp4",
    )


def test_points_and_restyle_rows_become_jobs() -> None:
    assert job_of(boxes=None, points=[{"x": 1, "y": 2}, {"x": 3, "y": 4, "positive": False}]).points == (
        PointKey(x=1.0, y=2.0),
        PointKey(x=3.0, y=4.0, positive=False),
    )
    job = job_of(boxes=None, task="restyle", control="gray", reference_uris=["r.png"], reference_boxes=[BOX])
    assert job.reference_uris == ("/data/r.png",)
    assert job.reference_boxes == (BoxKey(x=1.0, y=2.5, width=30.0, height=40.0),)


def test_nulls_and_absent_columns_have_the_defaults() -> None:
    nulls = {name: None for name in SCHEMA.names if name not in GOOD}
    assert (
        job_of(**nulls)
        == job_of()
        == Job(
            job_id="a", video_uri="/data/a.mp4", task="removal", boxes=(BoxKey(x=1.0, y=2.5, width=30.0, height=40.0),)
        )
    )


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"job_id": ""}, "job_id"),
        ({"job_id": "  "}, "job_id"),
        ({"job_id": "."}, "job_id"),
        ({"job_id": ".."}, "job_id"),
        ({"job_id": "nul\0byte"}, "job_id"),
        ({"job_id": "é" * 257}, "job_id"),
        ({"video_uri": ""}, "video_uri"),
        ({"video_uri": "nul\0"}, "video_uri"),
        ({"video_uri": "http://127.0.0.1:9/x.mp4"}, "video_uri"),
        ({"video_uri": "HTTPS://host/x.mp4"}, "video_uri"),
        ({"video_uri": "simplecache::http://host/x.mp4"}, "video_uri"),
        ({"video_uri": "s3://bucket/a::http://host/x"}, "video_uri"),
        ({"video_uri": "s3://bucket/a::file"}, "video_uri"),
        ({"video_uri": "s3://bucket"}, "video_uri"),
        ({"video_uri": "file://host/x.mp4"}, "video_uri"),
        ({"video_uri": "a" * 4097}, "video_uri"),
        ({"task": "romoval"}, "task"),
        ({"task": ""}, "task"),
        ({"boxes": [{**BOX, "x": math.nan}]}, "boxes[0].x"),
        ({"boxes": [BOX, {**BOX, "y": math.inf}]}, "boxes[1].y"),
        ({"boxes": [{**BOX, "width": 0}]}, "boxes[0].width"),
        ({"boxes": [{**BOX, "height": -1}]}, "boxes[0].height"),
        ({"boxes": [{**BOX, "height": math.nan}]}, "boxes[0].height"),
        ({"boxes": [{**BOX, "height": None}]}, "boxes[0].height"),
        ({"boxes": [None, BOX]}, "boxes[0]"),
        ({"boxes": [{**BOX, "frame": -1}]}, "boxes[0].frame"),
        ({"boxes": [{**BOX, "frame": 3}, {**BOX, "frame": 3}]}, "boxes"),
        ({"boxes": [{**BOX, "frame": 3}, {**BOX, "frame": None}]}, "boxes"),
        ({**NONE, "points": [{"x": -1.0, "y": 0.0}]}, "points[0].x"),
        ({**NONE, "points": [{"x": 1.0, "y": math.nan}]}, "points[0].y"),
        ({**NONE, "points": [{"x": 1.0, "y": 1.0, "positive": False}]}, "points"),
        ({**NONE, "mask_uri": ""}, "mask_uri"),
        ({**NONE, "targets": ["car", ""]}, "targets[1]"),
        ({**NONE, "targets": ["x" * 101]}, "targets[0]"),
        ({**NONE, "targets": ["a\nb"]}, "targets[0]"),
        ({**NONE, "targets": ["car"] * 201}, "targets"),
        ({"protect": {"targets": [""]}}, "protect.targets[0]"),
        ({"protect": {"boxes": [{**BOX, "width": 0}]}}, "protect.boxes[0].width"),
        ({"protect": {"mask_uri": "ftp://x/y"}}, "protect.mask_uri"),
        ({"detector": ""}, "detector"),
        ({"detector": "http://host/w.pt"}, "detector"),
        ({"segmenter": "a\x1bb"}, "segmenter"),
        ({"model": "https://host/m"}, "model"),
        ({"mask_shape": "Hull"}, "mask_shape"),
        ({"dilate": "6"}, "dilate"),
        ({"dilate": "-6px"}, "dilate"),
        ({"dilate": "nanpx"}, "dilate"),
        ({"dilate": "1001px"}, "dilate"),
        ({"dilate": "201%"}, "dilate"),
        ({"dilate": "٣px"}, "dilate"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"negative_prompt": "x\0"}, "negative_prompt"),
        ({"task": "inpainting", "reference_uris": ["r.png", None]}, "reference_uris[1]"),
        ({"task": "inpainting", "reference_uris": ["r.png"] * 9}, "reference_uris"),
        ({"task": "restyle", "prompt": "x", "control": "sepia"}, "control"),
        ({"start_s": -1.0}, "start_s"),
        ({"start_s": math.nan}, "start_s"),
        ({"end_s": math.inf}, "end_s"),
        ({"seed": -1}, "seed"),
        ({"priority": 1001}, "priority"),
        ({"loras": [{"uri": "a.pt"}]}, "loras[0].uri"),
        ({"loras": [{"uri": None}]}, "loras[0].uri"),
        ({"loras": [{"uri": "http://a/b.safetensors"}]}, "loras[0].uri"),
        ({"loras": [{"uri": "a.safetensors", "weight": 4.5}]}, "loras[0].weight"),
        ({"loras": [{"uri": "a.safetensors"}] * 9}, "loras"),
        ({"sampling": {"num_inference_steps": 0}}, "sampling.num_inference_steps"),
        ({"sampling": {"num_inference_steps": 201}}, "sampling.num_inference_steps"),
        ({"sampling": {"guidance_scale": -0.1}}, "sampling.guidance_scale"),
        ({"sampling": {"guidance_scale_2": 31.0}}, "sampling.guidance_scale_2"),
        ({"sampling": {"max_tokens": 63}}, "sampling.max_tokens"),
        ({"sampling": {"boundary_ratio": 875.0}}, "sampling.boundary_ratio"),
        ({"sampling": {"flow_shift": 0.0}}, "sampling.flow_shift"),
        ({"sampling": {"conditioning_scale": math.nan}}, "sampling.conditioning_scale"),
        ({"sampling": {"mask_rule": "max"}}, "sampling.mask_rule"),
        ({"sampling": {"guidance_until": 1.5}}, "sampling.guidance_until"),
        ({"sampling": {"guidance_from": 0.6, "guidance_until": 0.4}}, "sampling.guidance_from"),
        ({"sampling": {"step_cache": 1.0}}, "sampling.step_cache"),
        ({"sampling": {"max_frames": 80}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 1}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 245}}, "sampling.max_frames"),
        ({"sampling": {"max_frames": 9, "overlap_frames": 9}}, "sampling.overlap_frames"),
        ({"sampling": {"overlap_frames": -1}}, "sampling.overlap_frames"),
        ({"output_uri": "../x.mp4"}, "output_uri"),
        ({"output_uri": "/x.mp4"}, "output_uri"),
        ({"output_uri": "a//x.mp4"}, "output_uri"),
        ({"output_uri": "a\\x.mp4"}, "output_uri"),
        ({"output_uri": "s3://b/x.mp4"}, "output_uri"),
        ({"output_uri": "x"}, "output_uri"),
        ({"output_uri": ""}, "output_uri"),
        ({"job_id": None}, "job_id"),
        ({"task": None}, "task"),
    ],
)
def test_one_thing_wrong_is_one_fault_that_names_its_column(change: dict[str, Any], column: str) -> None:
    good = {**GOOD, "job_id": "good"}
    assert [(fault.row, fault.column) for fault in faults_of(good, {**GOOD, **change}, typed=True)] == [(1, column)]


def test_what_came_is_shown_short_and_without_control_characters() -> None:
    (fault,) = faults_of({**GOOD, "job_id": "\x1b[31mred\n", "mask_shape": "\x1b]0;" + "x" * 10_000})
    line = str(fault)
    assert len(line) < 200 and line.isprintable() and r"\x1b" in line
    assert len(shown(["y" * 1000] * 1000)) <= 60


@pytest.mark.parametrize(
    ("column", "value", "parsed"),
    [
        ("targets", [" car ", "bus"], ("car", "bus")),
        ("pick", {"largest": True, "tracks": [2]}, Pick(largest=True, tracks=(2,))),
        ("dilate", "1.5 tokens", Dilation(tokens=1.5)),
        ("dilate", "0px", Dilation(px=0)),
        ("loras", [{"uri": "a.safetensors", "expert": "high"}], (LoraRef(uri="a.safetensors", expert="high"),)),
        ("expand", {"left": 0.25, "up": None}, Expand(left=0.25)),
        ("extend", {"mode": "last", "seconds": 1}, Extend(mode="last", seconds=1.0)),
        ("compose", "control+repaint", "control+repaint"),
        ("detector", "yolo11n-seg.pt", "yolo11n-seg.pt"),
        ("detector", "hf://owner/name", "hf://owner/name"),
        ("mask_uri", "m.png", "/data/m.png"),
    ],
)
def test_a_cell_is_parsed(column: str, value: Any, parsed: Any) -> None:
    cell = Cell(column, "/data")
    assert (PARSERS[column](value, cell), cell.faults) == (parsed, [])


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("pick", {"tracks": [0]}, Fault("pick.tracks", "0", "1..2,147,483,647")),
        ("extend", {"mode": "both"}, Fault("extend.mode", "'both'", "one of first, last, firstlast")),
        ("extend", {"seconds": 0}, Fault("extend.seconds", "0", "more than 0 s")),
        (
            "extend",
            {"mode": "firstlast", "seconds": 1.0},
            Fault("extend.seconds", "1.0", "no value with firstlast, which bridges start_s to end_s"),
        ),
        ("expand", {}, Fault("expand", "no side", "at least one of left, right, up, down above 0")),
        (
            "expand",
            {"left": 0.5, "right": 0.5, "inner": True},
            Fault("expand", "sides that cover the whole frame", "left + right and up + down below 1 with inner"),
        ),
        ("background", "on", Fault("background", "'on'", "one of auto, off")),
        ("reference_uris", ["a.png"] * 9, Fault("reference_uris", "9 references", "at most 8")),
        (
            "compose",
            "repaint+paint",
            Fault(
                "compose",
                "'repaint+paint'",
                "one of reference, animate, swap, move, expand, or two of repaint, extension, control joined by '+'",
            ),
        ),
    ],
)
def test_a_wrong_cell_is_a_fault_with_its_path_what_came_and_what_was_expected(
    column: str, value: Any, fault: Fault
) -> None:
    cell = Cell(column, "/data")
    PARSERS[column](value, cell)
    assert cell.faults == [fault]
