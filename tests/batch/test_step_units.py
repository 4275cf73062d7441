"""The units of a clip's steps: order, inputs, batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.media_files import Media, make
from vace_batch.batch.budget import Account, Budget
from vace_batch.batch.identity import works_of
from vace_batch.batch.step_units import (
    keep_unit,
    measure_unit,
    prepare_unit,
    select_best_unit,
    stitch_unit,
    window_units,
)
from vace_batch.batch.window_queue import WindowQueue
from vace_batch.cluster.units import Failure, Unit
from vace_batch.costs import BudgetSettings, StepKind
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prepare import prepare


def clip(tmp_path: Path, **fields: object) -> tuple[ClipWork, ClipPlan]:
    """A clip of two windows."""
    make(tmp_path / "clip.mp4", Media(num_frames=40))
    boxes = (BoxKey(x=8, y=8, width=16, height=16),)
    job = Job(job_id="a", video_uri=str(tmp_path / "clip.mp4"), task="removal", boxes=boxes, background="off")
    [work] = works_of([replace(job, **fields)], str(tmp_path / "out"), Options(), str(tmp_path))  # type: ignore[arg-type]
    return work, prepare(work, MaskModels())


def keyed(work: ClipWork, plan: ClipPlan, number: int = 0) -> tuple[Unit, Unit]:
    return window_units(work, plan, plan.windows[number], f"window-{number}")


def test_each_unit_is_named_by_its_step_and_runs_the_function_of_that_name(tmp_path: Path) -> None:
    work, plan = clip(tmp_path)
    units = [prepare_unit(work), *keyed(work, plan), stitch_unit(work, plan), measure_unit(work, plan)]
    units += [select_best_unit(work, [], 0), keep_unit(work)]
    assert [unit.kind for unit in units] == list(StepKind)
    assert all(unit.fn.endswith(f":{unit.kind}") for unit in units)
    assert {unit.key for unit in units} == {work.clip_key, "window-0"}


def test_what_feeds_the_gpus_goes_first_whatever_the_priority_of_a_job(tmp_path: Path) -> None:
    work, plan = clip(tmp_path, priority=0)
    urgent = replace(work, job=replace(work.job, priority=1000))
    build, generate = keyed(work, plan)
    assert build.priority > stitch_unit(urgent, plan).priority > prepare_unit(urgent).priority
    assert stitch_unit(work, plan).priority > prepare_unit(urgent).priority > prepare_unit(work).priority
    assert generate.inputs == (build.unit_id,) and (build.pool, generate.pool) == ("cpu", "gpu")
    assert build.leaves_bytes > 0 == generate.leaves_bytes


def test_equal_windows_may_share_a_call_and_others_not(tmp_path: Path) -> None:
    work, plan = clip(tmp_path)
    first, second = keyed(work, plan, 0)[1], keyed(work, plan, 1)[1]
    same_shape = plan.windows[0].window.num_frames == plan.windows[1].window.num_frames
    assert (first.batch_key == second.batch_key) == same_shape
    sampled = replace(work, sampling=replace(work.sampling, num_inference_steps=7))
    assert first.batch_key == keyed(replace(work, job=replace(work.job, seed=9)), plan)[1].batch_key
    assert first.batch_key != keyed(sampled, plan)[1].batch_key
    assert first.batch_key != keyed(replace(work, revision="other"), plan)[1].batch_key


def test_a_window_begins_once_for_all_its_clips_as_far_as_the_budget_allows(tmp_path: Path) -> None:
    work, plan = clip(tmp_path)
    queue = WindowQueue(Budget(BudgetSettings(max_gpu_hours=1e9), account=Account()))
    other = replace(work, job=replace(work.job, job_id="b"))
    for one in (work, other):
        queue.add("window-0", one, plan, plan.windows[0])
    queue.add("window-1", work, plan, plan.windows[1])
    build, generate = queue.begin(lambda clips: True)
    assert (build.unit_id, generate.unit_id) == ("build/window-0", "generate/window-0"), "one runs until one has ended"
    assert queue.frames == {"window-0": plan.windows[0].window.num_frames}
    assert queue.finish("window-0") == sorted([work.clip_key, other.clip_key]) and queue.clips_of("window-0") == []
    failure = Failure(unit_id=generate.unit_id, code="timeout", reason="", attempts=3)
    assert list(queue.begin(lambda clips: False)) == [] and queue.clips_of("window-1") == [], "nobody needs it"
    assert queue.fail(generate, failure) == [] and queue.failures == {"window-0": (generate, failure)}
