"""Recovery of a whole clip: the holes that are left for the model."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.background.clip import without_specks
from vace_batch.background.patches import PatchReader
from vace_batch.background.recover import Recovered
from vace_batch.batch.identity import works_of
from vace_batch.geometry import Box
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job, Protect
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import write_clip

WIDTH, HEIGHT, FRAMES = 160, 96, 30


def ground() -> NDArray[np.uint8]:
    """Gray, so that nothing is lost with the chroma that video halves."""
    noise = np.random.default_rng(5).integers(0, 255, (HEIGHT // 4, WIDTH // 4), np.uint8)
    return np.asarray(cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)[..., None].repeat(
        3, 2
    )


def work_of(tmp_path: Path, step_px: int, **fields: object) -> ClipWork:
    """A clip with a red square that moves by `step_px` a frame, to be removed by exact boxes."""
    picture, path = ground(), tmp_path / "clip.mp4"
    frames, boxes = [], []
    for index in range(FRAMES):
        frame, x = picture.copy(), 16 + step_px * index
        frame[40:60, x : x + 20] = (220, 30, 30)
        frames.append(frame)
        boxes.append(BoxKey(x=x, y=40, width=20, height=20, frame=index))
    write_clip(path, frames, rate=Fraction(25))
    job = Job(job_id="a", video_uri=str(path), task="removal", boxes=tuple(boxes), **fields)  # type: ignore[arg-type]
    return works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))[0]


def planned(work: ClipWork) -> ClipPlan:
    return prepare(work, MaskModels())


def test_what_other_frames_show_needs_no_model(tmp_path: Path) -> None:
    work = work_of(tmp_path, step_px=4)
    plan = planned(work)
    assert plan.recovered_share == 1.0 and plan.windows == () and plan.holes is None
    record = stitch(work, plan)
    assert record["status"] == "done" and record["windows"] == 0
    picture = ground().astype(float)
    made = [frame.rgb() for frame in read_frames(Ledger(work.out).absolute(work.output))]
    assert len(made) == FRAMES
    errors = [((frame[30:70] - picture[30:70]) ** 2).mean() for frame in made]
    assert 10 * np.log10(255**2 / max(errors)) > 32


def test_a_parked_object_is_left_to_the_model(tmp_path: Path) -> None:
    plan = planned(work_of(tmp_path, step_px=0))
    assert plan.recovered is None and plan.recovered_share == 0 and plan.holes == plan.masks
    assert len(plan.windows) == 1


@pytest.mark.parametrize(("passes", "weight"), [(70, 0.0), (120, 1.0)])
def test_what_is_parked_in_a_still_picture_is_painted_once(tmp_path: Path, passes: int, weight: float) -> None:
    """A person who passes right beside the object makes the background uncertain, so the frames count as moving."""
    frames = []
    for index in range(90):
        frame = ground()
        frame[40:60, 60:80] = (220, 30, 30)
        if 50 <= index < 60:
            frame[10:90, passes + 2 : passes + 14] = (30, 200, index)
        frames.append(frame)
    write_clip(tmp_path / "clip.mp4", frames, rate=Fraction(25))
    boxes = tuple(BoxKey(x=60, y=40, width=20, height=20, frame=index) for index in (0, 89))
    job = Job(job_id="a", video_uri=str(tmp_path / "clip.mp4"), task="removal", boxes=boxes)
    plan = planned(works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))[0])
    [still] = plan.stills
    assert [still.weight(index) for index in (0, 30, 55, 80)] == [1, 1, weight, 1]
    assert (len(plan.windows) == 1) == (weight == 1)


@pytest.mark.parametrize(("protected", "reaches"), [(False, True), (True, False)])
def test_a_shadow_goes_with_its_object(tmp_path: Path, protected: bool, reaches: bool) -> None:
    """Both are painted out; the shadow without becoming work for the model. Where something is protected it stays."""
    size, frames, boxes = 24, [], []
    for index in range(FRAMES):
        x = 10 + 4 * index
        frame = ground()
        shade = np.ones((HEIGHT, WIDTH, 1), np.float32)
        shade[52:62, x - 6 : x + size + 6] = 0.55
        frame = np.asarray(frame * cv2.GaussianBlur(shade, (0, 0), 2)[..., None], np.uint8)
        frame[30:54, x : x + size] = (220, 30, 30)
        frames.append(frame)
        boxes.append(BoxKey(x=x, y=30, width=size, height=size, frame=index))
    write_clip(tmp_path / "clip.mp4", frames, rate=Fraction(25))
    protect = Protect(boxes=(BoxKey(x=0, y=0, width=8, height=8, frame=0),)) if protected else Protect()
    job = Job(job_id="a", video_uri=str(tmp_path / "clip.mp4"), task="removal", boxes=tuple(boxes), protect=protect)
    work = works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))[0]
    plan = planned(work)
    assert plan.recovered_share > 0.95 and plan.recovered is not None
    patch = PatchReader(Ledger(work.out).absolute(plan.recovered)).get(15, 16)[15]
    assert (patch.box.bottom > 66) == reaches  # the box, its dilation of 6 px, and then the shadow
    assert patch.known.sum() > 1.2 * (size + 12) ** 2 or not reaches


def test_background_off_leaves_all_to_the_model(tmp_path: Path) -> None:
    plan = planned(work_of(tmp_path, step_px=4, background="off"))
    assert plan.recovered is None and plan.windows and plan.holes == plan.masks


@pytest.mark.parametrize(("hole", "left"), [(2, 0), (12, 144)])
def test_specks_are_not_worth_a_window(hole: int, left: int) -> None:
    mask = np.ones((40, 40), np.bool_)
    known = mask.copy()
    known[10 : 10 + hole, 10 : 10 + hole] = False
    found = Recovered(index=0, box=Box(0, 0, 40, 40), rgb=np.zeros((40, 40, 3), np.uint8), known=known, still=mask)
    assert int((~without_specks(found, mask)).sum()) == left


def test_known_islands_are_given_up() -> None:
    mask, known = np.ones((40, 40), np.bool_), np.zeros((40, 40), np.bool_)
    known[5:8, 5:8] = True
    found = Recovered(index=0, box=Box(0, 0, 40, 40), rgb=np.zeros((40, 40, 3), np.uint8), known=known, still=mask)
    assert not without_specks(found, mask).any()
