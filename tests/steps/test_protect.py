"""Test that protected pixels stay unchanged when masks, thin parts, feathers and chroma grow round them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.media_files import Media, make
from tests.support.noise_engine import Noise
from vace_batch.batch.identity import works_of
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Dilation, Job, Protect
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import MaskReader
from vace_batch.options import Options
from vace_batch.steps.build import build
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.generate import generate
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.vcu.unit import VCU
from vace_batch.video.planes import plane_layout, plane_view

FRAME, NUM_FRAMES = Size(96, 64), 5
EXACT = Dilation(px=0.0)


def planes_of(path: str) -> list[list[NDArray[Any]]]:
    """Read the native samples of every frame, one (H, W) array a plane."""
    with av.open(path) as container:
        return [
            [plane_view(frame, plane, layout.dtype)[..., 0].copy() for plane in layout.planes]
            for frame in container.decode(video=0)
            if (layout := plane_layout(frame.format.name)) is not None
        ]


def boxes() -> st.SearchStrategy[BoxKey]:
    sides = st.sampled_from([2, 3, 7, 20, 40])
    return st.builds(BoxKey, x=st.integers(0, 90), y=st.integers(0, 60), width=sides, height=sides)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    media = Media(width=FRAME.width, height=FRAME.height, num_frames=NUM_FRAMES, codec="ffv1")
    return make(tmp_path_factory.mktemp("protect") / "clip.mkv", media)


def run(job: Job, folder: str, feather_px: int = 2) -> tuple[ClipPlan, str]:
    work = works_of([job], folder, Options(feather_px=feather_px), str(Path(job.video_uri).parent))[0]
    plan = prepare(work, MaskModels())
    vcus = [build(work, plan, planned) for planned in plan.windows]
    for vcu, planned in zip(vcus, plan.windows, strict=True):
        if plan.protected:
            assert_kept_from_model(vcu, work.out, plan, planned.window.box, planned.window.start)
    generate(vcus, Noise(), work.out)()  # type: ignore[arg-type]
    record = stitch(work, plan)
    return plan, Ledger(work.out).absolute(record["output"])


def assert_kept_from_model(vcu: VCU, out: str, plan: ClipPlan, box: Any, start: int) -> None:
    assert plan.protected is not None
    if vcu.size == box.size:
        for index, guard in MaskReader(Ledger(out).absolute(plan.protected)).get(start, start + vcu.num_frames).items():
            assert not (vcu.mask_THW[index - start] & guard.within(box)).any()


@settings(max_examples=6, phases=(Phase.explicit, Phase.generate))  # an example is a whole clip
@given(
    selected=st.lists(boxes(), min_size=1, max_size=2),
    protected=st.lists(boxes(), min_size=1, max_size=2),
    dilate=st.sampled_from([Dilation(px=0.0), Dilation(px=9.0), Dilation(tokens=1.0), Dilation(percent=80.0)]),
    feather_px=st.sampled_from([0, 2, 9]),
    task=st.sampled_from(["removal", "inpainting"]),
)
@example([BoxKey(x=41, y=20, width=2, height=20)], [BoxKey(x=43, y=11, width=9, height=40)], EXACT, 9, "inpainting")
@example([BoxKey(x=20, y=20, width=20, height=9)], [BoxKey(x=31, y=23, width=3, height=3)], EXACT, 0, "removal")
def test_protected_samples_come_out_as_they_went_in(
    source: str, selected: list[BoxKey], protected: list[BoxKey], dilate: Dilation, feather_px: int, task: str
) -> None:
    job = Job(
        job_id="a", video_uri=source, task=task, boxes=tuple(selected), protect=Protect(boxes=tuple(protected)),
        dilate=dilate, prompt="moss",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plan, output = run(job, folder, feather_px)
        before, after = planes_of(source), planes_of(output)
    kept = np.zeros((FRAME.height, FRAME.width), np.bool_)
    for box in protected:
        kept[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = True
    chroma = kept.reshape(FRAME.height // 2, 2, FRAME.width // 2, 2).any(axis=(1, 3))
    changed = False
    for was, now in zip(before, after, strict=True):
        for one, other in zip(was, now, strict=True):
            held = kept if one.shape == kept.shape else chroma
            np.testing.assert_array_equal(one[held], other[held])
            changed |= bool((one != other).any())
    assert changed or not plan.windows


def test_all_but_what_is_protected_is_redrawn(source: str, tmp_path: Path) -> None:
    """Test a job that only protects, and a job whose masks steer instead of selecting."""
    face = BoxKey(x=30, y=20, width=20, height=16)
    for name, fields in {
        "plain": {"control": "gray"},
        "steered": {"control": "layout_track", "boxes": (BoxKey(x=0, y=0, width=16, height=16),)},
    }.items():
        job = Job(job_id=name, video_uri=source, task="restyle", prompt="ink", protect=Protect(boxes=(face,)), **fields)  # type: ignore[arg-type]
        plan, output = run(job, str(tmp_path / name))
        assert plan.masked_frames == NUM_FRAMES and plan.protected is not None
        for was, now in zip(planes_of(source), planes_of(output), strict=True):
            same = was[0] == now[0]
            assert same[20:36, 30:50].all() and same.mean() < 0.2


def test_without_protection_there_is_no_file_of_it(source: str, tmp_path: Path) -> None:
    job = Job(job_id="a", video_uri=source, task="removal", boxes=(BoxKey(x=9, y=9, width=20, height=16),))
    plan, _ = run(job, str(tmp_path))
    assert plan.protected is None
