"""Test every task from a manifest row to the VCUs of its windows, on real files and without a model."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.media_files import Media, make
from tests.support.prepared_clips import FRAMES, Prepare, Windows
from vace_batch.batch.dry_run import plan as estimate
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Expand, Extend, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.options import Options
from vace_batch.steps import build as build_step
from vace_batch.vcu.controls.videos import simple_control
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.video.reader import read_image

BOX = BoxKey(x=16, y=16, width=24, height=24)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("red", "mask_coloured"),
        ("ones", "mask_too_dark"),
        ("clear", "mask_transparent"),
        ("labels", "mask_levels"),
        ("good", None),
    ],
)
def test_a_reference_mask_that_is_no_mask_is_refused(
    windows: Windows, tmp_path: Path, kind: str, code: str | None
) -> None:
    face = str(tmp_path / "face.png")
    height, width = read_image(face).shape[:2]
    gray = np.zeros((height, width), np.uint8)
    gray[100:300, 100:300] = 255
    pictures = {
        "red": np.stack([gray, 0 * gray, 0 * gray], axis=2),
        "ones": gray // 255,
        "clear": np.dstack([gray, gray, gray, gray]),
        "labels": np.where(np.arange(width) < 200, gray, gray // 2).astype(np.uint8),
        "good": gray,
    }
    Image.fromarray(pictures[kind]).save(tmp_path / "mask.png")
    columns = {"reference_uris": (face,), "reference_mask_uris": (str(tmp_path / "mask.png"),)}
    if code is None:
        assert len(windows("r2v", **columns)) == 1
        return
    with pytest.raises(ClipError, match=r"reference_mask_uris\[0\]: ") as caught:
        windows("r2v", **columns)
    assert caught.value.code == code


def test_text_and_references_to_video_cover_the_source_and_show_nothing_of_it(windows: Windows, tmp_path: Path) -> None:
    face = str(tmp_path / "face.png")
    [text] = windows("t2v")
    [vcu] = windows("r2v", reference_uris=(face,), reference_mode="face", reference_background="white")
    for one in (text, vcu):
        assert one.size == Size(96, 64) and one.num_frames == 25
        assert one.mask_THW.all() and one.neutral_THW.all()
    [canvas] = vcu.references
    assert (canvas[:, 0] == 255).all() and canvas[20:44, 36:60].std() > 20
    assert text.references == ()


def test_inner_outpainting_keeps_the_middle(windows: Windows) -> None:
    [vcu] = windows("outpainting", expand=Expand(left=0.25, down=0.25, inner=True))
    assert vcu.mask_THW[:, :, :24].all() and vcu.mask_THW[:, 48:].all()
    assert not vcu.mask_THW[:, :48, 24:].any()
    np.testing.assert_array_equal(vcu.mask_THW, vcu.neutral_THW)


@pytest.mark.parametrize("control", ["gray", "flow", "layout_bbox", "plain"])
def test_a_control_alone_steers_the_whole_picture(windows: Windows, control: str) -> None:
    boxes = (BOX,) if control == "layout_bbox" else ()
    [vcu] = windows("restyle", control=control, boxes=boxes)
    assert vcu.mask_THW.all() and not vcu.neutral_THW.any()
    assert vcu.frames_THWC[0].std() > 1
    assert (control == "gray") == bool((vcu.frames_THWC == vcu.frames_THWC[..., :1]).all())


def test_of_two_controls_the_second_rules_where_the_mask_source_says(windows: Windows) -> None:
    [vcu] = windows("restyle", control="gray+scribble", boxes=(BOX,))
    [gray] = windows("restyle", control="gray")
    [scribble] = windows("restyle", control="scribble")
    assert vcu.mask_THW.all()
    np.testing.assert_array_equal(vcu.frames_THWC[:, 24:32, 24:32], scribble.frames_THWC[:, 24:32, 24:32])
    np.testing.assert_array_equal(vcu.frames_THWC[:, 52:, :8], gray.frames_THWC[:, 52:, :8])


@pytest.mark.parametrize(
    ("mode", "unit", "new"),
    [
        ("first", "clip", (8, 24)),
        ("first", "frame", (8, 24)),
        ("last", "clip", (0, 16)),
        ("firstlast", "frame", (8, 16)),
    ],
)
def test_extension_in_place_makes_its_frames_anew_from_known_ones(
    prepared: Prepare, mode: str, unit: str, new: tuple[int, int]
) -> None:
    start_s, end_s = (frame / 25 if 0 < frame < FRAMES else None for frame in new)
    work, plan = prepared("extension", extend=Extend(mode=mode, unit=unit), start_s=start_s, end_s=end_s)
    [planned] = plan.windows
    vcu = build_step.build(work, plan, planned)
    window = planned.window
    assert vcu.num_frames % 4 == 1 and plan.new == new
    known = [index not in range(*new) for index in range(window.start, window.stop)]
    np.testing.assert_array_equal(~vcu.mask_THW[: len(known)].any(axis=(1, 2)), known)
    np.testing.assert_array_equal(vcu.mask_THW, vcu.neutral_THW)
    assert known[0] == (mode != "last") and known[-1] == (mode != "first")
    if unit == "frame":
        assert sum(known) <= 5


def test_outpainting_shows_the_source_on_a_larger_canvas(prepared: Prepare) -> None:
    work, plan = prepared("outpainting", expand=Expand(left=0.25, down=0.25))
    assert plan.size == Size(128, 80) and plan.canvas.source == Box(32, 0, 96, 64)
    vcu = build_step.build(work, plan, plan.windows[0])
    assert vcu.size == plan.size
    assert vcu.mask_THW[:, :, :32].all() and vcu.mask_THW[:, 64:].all() and not vcu.mask_THW[:, :64, 32:].any()
    [plain] = [build_step.build(*made, made[1].windows[0]) for made in [prepared("restyle", control="plain")]]
    np.testing.assert_array_equal(vcu.frames_THWC[:, :64, 32:], plain.frames_THWC)


@pytest.mark.parametrize(("mode", "known"), [("first", range(0, 24)), ("last", range(6, 30))])
def test_an_extension_that_adds_frames_shows_the_source_beside_them(prepared: Prepare, mode: str, known: range) -> None:
    work, plan = prepared("extension", extend=Extend(mode=mode, seconds=0.24))
    assert plan.num_frames == 30 and plan.span == known
    [planned] = plan.windows
    vcu = build_step.build(work, plan, planned)
    is_known = [planned.window.start + n in known for n in range(vcu.num_frames)]
    np.testing.assert_array_equal(~vcu.mask_THW.any(axis=(1, 2)), is_known)
    assert 0 < sum(is_known) < vcu.num_frames
    _, whole = prepared("restyle", control="plain")
    source = build_step.build(*prepared("restyle", control="plain"), whole.windows[0])
    shown = [index - known.start for index in range(planned.window.start, planned.window.stop) if index in known]
    np.testing.assert_array_equal(vcu.frames_THWC[is_known], source.frames_THWC[shown])


def test_move_is_a_known_first_frame_and_a_layout(windows: Windows) -> None:
    keys = (replace(BOX, frame=0), replace(BOX, frame=FRAMES - 1, x=50.0))
    fields = {"compose": "move", "control": "layout_bbox", "boxes": keys, "extend": Extend(unit="frame")}
    [vcu] = windows("composition", **fields)
    assert not vcu.mask_THW[0].any() and vcu.mask_THW[1:].all() and not vcu.neutral_THW.any()
    assert (vcu.frames_THWC[5] == 255).mean() > 0.5


def test_swap_is_the_mask_and_the_references(windows: Windows, tmp_path: Path) -> None:
    [vcu] = windows("composition", compose="swap", boxes=(BOX,), reference_uris=(str(tmp_path / "face.png"),))
    assert vcu.mask_THW.any() and not vcu.mask_THW.all() and len(vcu.references) == 1


def test_a_control_drawn_here_is_the_one_of_the_frames(windows: Windows) -> None:
    [plain] = windows("restyle", control="plain")
    [gray] = windows("restyle", control="gray")
    np.testing.assert_array_equal(gray.frames_THWC, simple_control("gray", plain.frames_THWC))


def test_plan_shows_every_value_that_decides_a_job(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    make(path, Media(width=96, height=64))
    rows = [Job(job_id="a", video_uri=str(path), task="restyle", control="gray", prompt="ink", preset="fast")]
    found = estimate(Manifest(jobs=tuple(rows), digest="d", uri=str(tmp_path / "m.parquet")), Options(), out=None)
    shown = found.as_dict()["clips"][0]["settings"]
    assert (shown["preset"], shown["prompt"], shown["negative_prompt"], shown["seed_scope"]) == (
        "fast",
        "ink",
        "",
        "window",
    )
    assert (shown["model"], shown["sampling"]["num_inference_steps"]) == ("tiny", 4) and shown["revision"]
    assert set(shown["sampling"]) == {field.name for field in fields(ResolvedSampling)}
