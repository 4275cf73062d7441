"""Test the order of steps without Ray: the graph gets ended units and returns new units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.support.media_files import Media, make
from tests.support.records import check_records, commit_clip
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.cli.running import _clip_lines
from vace_batch.cluster.units import Failure, Unit
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.measure import unmeasured
from vace_batch.steps.prepare import prepare

BOX = BoxKey(x=8, y=8, width=16, height=16)


def job(path: Path, job_id: str = "a", **fields: object) -> Job:
    """The clips' smooth ramps would be bridged and leave no window: so without their background."""
    plain = Job(job_id=job_id, video_uri=str(path), task="removal", boxes=(BOX,), background="off")
    return replace(plain, **fields)  # type: ignore[arg-type]


def video(path: Path, media: Media) -> Path:
    make(path, media)
    return path


def batch(tmp_path: Path, *jobs: Job) -> Batch:
    manifest = Manifest(jobs=jobs, digest="d", uri=str(tmp_path / "m.parquet"))
    return open_batch(manifest, str(tmp_path / "out"), Options())


def plan_of(work: ClipWork) -> ClipPlan:
    return prepare(work, MaskModels())


def names(units: Iterable[Unit]) -> list[str]:
    return sorted(unit.kind for unit in units)


def test_a_clip_goes_through_its_steps_in_order(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media(num_frames=40))
    opened = batch(tmp_path, job(path))
    graph = ClipGraph(opened.pending)
    [first] = graph.first_units()
    assert first.kind == "prepare"
    units = list(graph.on_done(first, plan_of(opened.works[0])))
    assert names(units) == ["build", "build", "generate", "generate"]
    for unit in units:
        assert unit.pool == ("gpu" if unit.kind == "generate" else "cpu")
    one, two = [unit for unit in units if unit.kind == "generate"]
    assert list(graph.on_done(one, 0.0)) == []
    assert names(graph.on_done(two, 0.0)) == ["stitch"]


def test_a_stitched_clip_is_measured_and_is_done_whatever_comes_of_it(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    opened = batch(tmp_path, job(path, "a"), job(path, "b"))
    for work in opened.works:  # stitched by a run that was killed before it looked at them
        commit_clip(opened.out, work, {"status": "done", "windows": 1, "seconds": 1.0, "runs": 1})
    graph = ClipGraph(opened.pending)
    measures = []
    for unit, work in zip(graph.first_units(), opened.works, strict=True):
        [again] = graph.on_done(unit, plan_of(work))
        assert again.kind == "stitch"  # which finds its record
        measures += graph.on_done(again, "done")
    assert names(measures) == ["measure", "measure"] and graph.status["done"] == 0
    record = unmeasured(opened.works[0], "a test")
    assert list(graph.on_done(measures[0], record)) == []
    failure = Failure(unit_id="", code="timeout", reason="it hung", retryable=True, attempts=3)
    assert list(graph.on_failed(measures[1], failure)) == []
    assert graph.status == {"done": 2, "failed": 0, "skipped": 0}
    summary = close_batch(opened)
    assert (summary.done, summary.failed, summary.verdicts) == (2, 0, {"review": 1})
    assert "it hung" in summary.jobs[1]["reasons"][0] and summary.jobs[0]["verdict"] is None


def test_a_clip_that_could_not_be_measured_for_lack_of_time_is_measured_by_the_next_run(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    rows = job(path, "a"), job(path, "b")
    opened = batch(tmp_path, *rows)
    for work in opened.works:
        commit_clip(opened.out, work, {"status": "done", "windows": 1, "seconds": 1.0, "runs": 1})
    graph = ClipGraph(opened.pending)
    for unit, work, retryable in zip(graph.first_units(), opened.works, (True, False), strict=True):
        [stitch] = graph.on_done(unit, plan_of(work))
        [measure] = graph.on_done(stitch, "done")
        failure = Failure(unit_id="", code="timeout", reason="it hung", retryable=retryable, attempts=3)
        assert list(graph.on_failed(measure, failure)) == []
    unmeasured = "the clip could not be measured: timeout: it hung"
    first, second = close_batch(opened).jobs
    assert first["reasons"] == [f"{unmeasured}; the next run measures it again"] and second["reasons"] == [unmeasured]
    assert check_records(opened.out) >= {"QualityRecord"}
    again = batch(tmp_path, *rows)
    assert [work.job.job_id for work in again.pending] == ["a"]
    assert summarise(opened.out).verdicts == {"review": 1}, "the first is done, and not judged yet"


def test_a_skipped_clip_is_finished_without_a_verdict(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    opened = batch(tmp_path, job(path, "a"), job(path, "b"))
    reason = "no person was found in 6 frames looked at of 24"
    graph = ClipGraph(opened.pending)
    for unit, work, status in zip(graph.first_units(), opened.works, ("skipped", "done"), strict=True):
        [stitched] = graph.on_done(unit, replace(plan_of(work), windows=(), masks=None))
        record = {"status": status, "windows": 0, "seconds": 1.0, "runs": 1}
        commit_clip(opened.out, work, {**record, "reason": reason if status == "skipped" else None})
        assert names(graph.on_done(stitched, status)) == ([] if status == "skipped" else ["measure"])
    assert graph.status == {"done": 0, "failed": 0, "skipped": 1}
    for work in opened.works:  # as an earlier version measured the copy
        Ledger(opened.out).commit(quality_key(work.clip_key), unmeasured(work, "a test"))
    summary = close_batch(opened)
    assert (summary.done, summary.skipped, summary.verdicts) == (1, 1, {"review": 1})
    assert summary.jobs[0]["verdict"] is None and summary.jobs[0]["reason"] == reason
    assert [line for line in _clip_lines(summary) if "a:" in line] == [f"skipped  a: {reason}"]


def test_a_skipped_clip_is_not_run_again(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    opened = batch(tmp_path, job(path, "a"), job(path, "b"))
    for work, status in zip(opened.works, ("skipped", "done"), strict=True):
        commit_clip(opened.out, work, {"status": status, "windows": 0, "seconds": 1.0, "runs": 1})
    again = batch(tmp_path, job(path, "a"), job(path, "b"))
    assert [work.job.job_id for work in again.pending] == ["b"], "b is not measured yet"


def test_windows_in_the_ledger_are_not_made_again(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media(num_frames=40))
    opened = batch(tmp_path, job(path))
    [work], ledger = opened.works, Ledger(opened.out)
    plan = plan_of(work)
    keys = [work.window_key(planned, plan.region_of(planned)) for planned in plan.windows]
    ledger.commit(keys[0], {"artifact": "x", "seconds": 1.0, "seed": 1})
    graph = ClipGraph(opened.pending)
    units = list(graph.on_done(next(iter(graph.first_units())), plan))
    assert {unit.unit_id for unit in units} == {f"build/{keys[1]}", f"generate/{keys[1]}"}
    ledger.commit(keys[1], {"artifact": "y", "seconds": 1.0, "seed": 1})
    again = ClipGraph(opened.pending)
    assert names(again.on_done(next(iter(again.first_units())), plan)) == ["stitch"]


def test_equal_windows_of_two_jobs_are_made_once(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    opened = batch(tmp_path, job(path, "a"), job(path, "b"))
    assert opened.works[0].clip_key != opened.works[1].clip_key
    graph = ClipGraph(opened.pending)
    first, second = graph.first_units()
    made = list(graph.on_done(first, plan_of(opened.works[0])))
    assert names(made) == ["build", "generate"]
    assert list(graph.on_done(second, plan_of(opened.works[1]))) == []
    assert names(graph.on_done(made[1], 0.0)) == ["stitch", "stitch"]


def test_a_lost_window_fails_every_clip_that_needs_it_now_and_later(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    opened = batch(tmp_path, job(path, "a"), job(path, "b"), job(path, "c"))
    graph = ClipGraph(opened.pending)
    first, second, third = graph.first_units()
    build, generate = graph.on_done(first, plan_of(opened.works[0]))
    graph.on_done(second, plan_of(opened.works[1]))
    failure = Failure(unit_id="", code="worker_died", reason="its process died 3 times", retryable=True, attempts=3)
    assert list(graph.on_failed(build, failure)) == list(graph.on_failed(generate, failure)) == []
    assert list(graph.on_done(third, plan_of(opened.works[2]))) == []
    summary = close_batch(opened)
    assert (summary.planned, summary.failed, summary.pending) == (3, 3, 0)
    assert {row["error_code"] for row in summary.jobs} == {"worker_died"}
    assert batch(tmp_path, *(work.job for work in opened.works)).pending == ()
