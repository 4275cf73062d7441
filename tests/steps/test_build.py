"""Every task from a manifest row to the VCU of its windows, on real files and without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from tests.support.media_files import Media, make
from vace_batch.batch.dry_run import plan as estimate
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Expand, Extend, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps import build as build_step
from vace_batch.steps import prepare as prepare_step
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.vcu.controls import simple_control
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import encode_lossless

FRAMES = 24
BOX = BoxKey(x=16, y=16, width=24, height=24)
Windows = Callable[..., list[VCU]]


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[ClipWork, ClipPlan]]:
    path = tmp_path / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=FRAMES))
    cv2.imwrite(str(tmp_path / "face.png"), astronaut()[..., ::-1])

    def prepare(task: str, media: Media | None = None, **fields: object) -> tuple[ClipWork, ClipPlan]:
        if media:
            make(path, media)
        job = Job(job_id="j", video_uri=str(path), task=task, prompt="x", background="off")
        row = replace(job, **fields)  # type: ignore[arg-type]
        [work] = works_of([row], str(tmp_path / "out"), Options(), str(tmp_path))
        return work, prepare_step.prepare(work, MaskModels())

    return prepare


@pytest.fixture
def windows(prepared: Callable[..., tuple[ClipWork, ClipPlan]]) -> Windows:
    def build(task: str, **fields: object) -> list[VCU]:
        work, plan = prepared(task, **fields)
        return [build_step.build(work, plan, planned) for planned in plan.windows]

    return build


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


def test_layout_draws_the_box_where_it_is_on_white(windows: Windows) -> None:
    keys = (replace(BOX, frame=0), replace(BOX, frame=FRAMES - 1, x=50.0))
    [vcu] = windows("restyle", control="layout_bbox", boxes=keys)
    for frame, left in ((0, 16), (FRAMES - 1, 50)):
        drawn = (vcu.frames_THWC[frame] < 250).any(axis=-1)
        assert abs(int(np.flatnonzero(drawn.any(axis=0))[0]) - left) <= 1
        assert not drawn[22:34, left + 6 : left + 18].any()


def test_of_two_controls_the_second_rules_where_the_mask_source_says(windows: Windows) -> None:
    [vcu] = windows("restyle", control="gray+scribble", boxes=(BOX,))
    [gray] = windows("restyle", control="gray")
    [scribble] = windows("restyle", control="scribble")
    assert vcu.mask_THW.all()
    np.testing.assert_array_equal(vcu.frames_THWC[:, 24:32, 24:32], scribble.frames_THWC[:, 24:32, 24:32])
    np.testing.assert_array_equal(vcu.frames_THWC[:, 52:, :8], gray.frames_THWC[:, 52:, :8])


def test_flow_is_drawn_alike_in_every_window_of_a_shot_and_by_one_scale(
    prepared: Callable[..., tuple[ClipWork, ClipPlan]],
) -> None:
    media = Media(width=96, height=64, num_frames=50, cut_at=40)
    work, plan = prepared("restyle", media, control="flow")
    assert len(plan.scales) == len(plan.shots) == 2
    vcus = [build_step.build(work, plan, planned) for planned in plan.windows]
    first, second = (planned.window for planned in plan.windows[:2])
    assert second.start < first.stop
    here, there = vcus[0].frames_THWC[second.start - first.start :], vcus[1].frames_THWC[: first.stop - second.start]
    np.testing.assert_array_equal(here, there)


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
    prepared: Callable[..., tuple[ClipWork, ClipPlan]], mode: str, unit: str, new: tuple[int, int]
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


def test_an_extension_that_no_window_holds_is_a_failed_row(prepared: Callable[..., tuple[ClipWork, ClipPlan]]) -> None:
    with pytest.raises(ClipError, match="39 new frames and 1 known; a window of this model takes 33"):
        prepared("extension", Media(width=96, height=64, num_frames=40), extend=Extend())
    media = Media(width=96, height=64, num_frames=40, cut_at=20)
    with pytest.raises(ClipError, match="cross the cut at 20"):
        prepared("extension", media, extend=Extend(), start_s=0.6, end_s=1.2)


def test_outpainting_shows_the_source_on_a_larger_canvas(prepared: Callable[..., tuple[ClipWork, ClipPlan]]) -> None:
    work, plan = prepared("outpainting", expand=Expand(left=0.25, down=0.25))
    assert plan.size == Size(128, 80) and plan.canvas.source == Box(32, 0, 96, 64)
    vcu = build_step.build(work, plan, plan.windows[0])
    assert vcu.size == plan.size
    assert vcu.mask_THW[:, :, :32].all() and vcu.mask_THW[:, 64:].all() and not vcu.mask_THW[:, :64, 32:].any()
    [plain] = [build_step.build(*made, made[1].windows[0]) for made in [prepared("restyle", control="plain")]]
    np.testing.assert_array_equal(vcu.frames_THWC[:, :64, 32:], plain.frames_THWC)


@pytest.mark.parametrize(("mode", "known"), [("first", range(0, 24)), ("last", range(6, 30))])
def test_an_extension_that_adds_frames_shows_the_source_beside_them(
    prepared: Callable[..., tuple[ClipWork, ClipPlan]], mode: str, known: range
) -> None:
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


@pytest.mark.parametrize(
    ("fields", "size", "frames"),
    [
        ({"task": "outpainting", "expand": Expand(left=0.25)}, Size(128, 64), FRAMES),
        ({"task": "extension", "extend": Extend(mode="last", seconds=0.24)}, Size(96, 64), FRAMES + 6),
        ({"task": "composition", "compose": "expand", "extend": Extend(seconds=0.2)}, Size(160, 96), FRAMES + 5),
    ],
)
def test_what_grows_is_stitched_whole(
    prepared: Callable[..., tuple[ClipWork, ClipPlan]], fields: dict[str, object], size: Size, frames: int
) -> None:
    work, plan = prepared(**fields)
    ledger = Ledger(work.out)
    for planned in plan.windows:
        vcu = build_step.build(work, plan, planned)
        uri = ledger.artifact_uri(vcu.window_id, ".mkv")
        red = np.full_like(vcu.frames_THWC, (255, 0, 0))
        storage.publish(uri, encode_lossless(red))
        ledger.commit(vcu.window_id, {"artifact": ledger.relative(uri), "seconds": 0.0, "seed": vcu.seed})
    assert stitch(work, plan)["status"] == "done"
    source = [frame.rgb() for frame in read_frames(work.job.video_uri)]
    output = [frame.rgb() for frame in read_frames(ledger.absolute(work.output))]
    assert len(output) == frames and {frame.shape for frame in output} == {(size.height, size.width, 3)}
    for index, picture in enumerate(output):
        kept = picture[plan.canvas.source.slices]
        if index in plan.span:
            assert np.abs(kept[8:-8, 8:-8].astype(int) - source[index - plan.canvas.before][8:-8, 8:-8]).mean() < 4
        else:
            assert (kept[..., 0] > 180).all() and (kept[..., 1] < 80).all()


def test_move_is_a_known_first_frame_and_a_layout(windows: Windows) -> None:
    keys = (replace(BOX, frame=0), replace(BOX, frame=FRAMES - 1, x=50.0))
    fields = {"compose": "move", "control": "layout_bbox", "boxes": keys, "extend": Extend(unit="frame")}
    [vcu] = windows("composition", **fields)
    assert not vcu.mask_THW[0].any() and vcu.mask_THW[1:].all() and not vcu.neutral_THW.any()
    assert (vcu.frames_THWC[5] == 255).mean() > 0.5


def test_swap_is_the_mask_and_the_references(windows: Windows, tmp_path: Path) -> None:
    [vcu] = windows("composition", compose="swap", boxes=(BOX,), reference_uris=(str(tmp_path / "face.png"),))
    assert vcu.mask_THW.any() and not vcu.mask_THW.all() and len(vcu.references) == 1


def test_seeds_are_shared_as_far_as_their_scope_says(prepared: Callable[..., tuple[ClipWork, ClipPlan]]) -> None:
    media = Media(width=96, height=64, num_frames=60, cut_at=45)
    seeds = {}
    for scope in ("window", "shot", "programme"):
        work, plan = prepared("restyle", media, control="gray", seed_scope=scope)
        seeds[scope] = [work.seed(planned) for planned in plan.windows]
    assert [len(set(found)) for found in seeds.values()] == [3, 2, 1]
    work, plan = prepared("restyle", Media(width=96, height=64), control="gray", seed_scope="programme")
    assert work.seed(plan.windows[0]) == seeds["programme"][0], "another video of the same programme"


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
