"""The order of steps, without Ray: the graph is told of ended units and answers with new ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import works_of
from vace_batch.batch.pools import pools_of
from vace_batch.cluster.units import Failure, Unit
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.measure import unmeasured
from vace_batch.steps.prepare import prepare, survey
from vace_batch.storage import files as storage

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
    ledger = Ledger(opened.out)
    for work in opened.works:  # stitched by a run that was killed before it looked at them
        ledger.commit(work.clip_key, {"status": "done", "windows": 1, "seconds": 1.0, "runs": 1})
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


def test_identity_follows_what_decides_pixels_and_nothing_else(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    base = job(path)

    def keys(changed: Job, options: Options | None = None) -> tuple[str, str, str]:
        [work] = works_of([changed], str(tmp_path / "out"), options or Options(), str(tmp_path))
        plan = survey(work, MaskModels(), tmp_path)
        return work.prep_key, work.window_key(plan.windows[0], plan.regions[0]), work.clip_key

    prep, window, clip = keys(base)
    assert keys(replace(base, priority=5, row=9)) == (prep, window, clip)
    assert keys(replace(base, job_id="b"))[:2] == (prep, window) and keys(replace(base, job_id="b"))[2] != clip
    assert keys(replace(base, prompt="a lawn"))[0] == prep and keys(replace(base, prompt="a lawn"))[1] != window
    assert keys(replace(base, seed=7))[1] != window
    moved = replace(base, boxes=(replace(BOX, x=9.0),))
    assert all(one != other for one, other in zip(keys(moved), (prep, window, clip), strict=True))
    assert keys(base, Options(feather_px=5)) == (prep, window, keys(base, Options(feather_px=5))[2])
    assert keys(base, Options(cpu_actors=3, max_batch=4)) == (prep, window, clip)
    copied = tmp_path / "elsewhere.mp4"
    copied.write_bytes(path.read_bytes())
    assert keys(replace(base, video_uri=str(copied))) == (prep, window, clip)
    make(path, Media(cut_at=3))
    assert all(one != other for one, other in zip(keys(base), (prep, window, clip), strict=True))


def test_a_second_manifest_with_more_rows_keeps_what_is_done(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    first = batch(tmp_path, job(path, "a"))
    Ledger(first.out).commit(first.works[0].clip_key, {"status": "done", "windows": 1, "seconds": 1.0, "runs": 1})
    assert batch(tmp_path, job(path, "a")).pending  # it is not measured yet
    [work] = first.works
    Ledger(first.out).commit(quality_key(work.clip_key), unmeasured(work, "a test"))
    second = batch(tmp_path, job(path, "a"), job(path, "b"))
    assert [work.job.job_id for work in second.pending] == ["b"]
    summary = close_batch(second)
    assert (summary.planned, summary.done, summary.pending) == (2, 1, 1)


def test_outputs_keep_the_container_and_stay_inside(tmp_path: Path) -> None:
    path = video(tmp_path / "CLIP.MP4", Media())
    bare = tmp_path / "no_extension"
    bare.write_bytes(video(tmp_path / "x.mkv", Media()).read_bytes())
    works = works_of([job(path, "../../escape"), job(bare, "ok")], str(tmp_path / "out"), Options(), str(tmp_path))
    assert (
        works[0].output.startswith("videos/") and works[0].output.endswith(".mp4") and works[0].output.count("/") == 1
    )
    assert works[1].output == "videos/ok.mkv"
    [placed] = works_of([job(path, output_uri="series/ep1.mov")], str(tmp_path / "out"), Options(), str(tmp_path))
    assert placed.output == "videos/series/ep1.mov"
    assert not storage.exists(str(tmp_path / "out" / "videos"))


def test_pools_keep_what_the_options_say() -> None:
    fixed = pools_of(Options(cpu_actors=3), 8)
    assert [(pool.num_actors, pool.min_actors, pool.num_gpus) for pool in fixed] == [(3, None, 0), (8, None, 1)]
    elastic = pools_of(Options(cpu_actors=30, gpu_actors=6, min_cpu_actors=1, min_gpu_actors=0), 8)
    assert [(pool.num_actors, pool.min_actors) for pool in elastic] == [(30, 1), (6, 0)]
    with pytest.raises(UsageError, match="--min-gpu-actors: expected at most 2, which is --gpu-actors, got 3"):
        pools_of(Options(gpu_actors=2, min_gpu_actors=3), 8)
