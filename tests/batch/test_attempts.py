"""Attempts at a clip: how they go through the graph, which is kept, and how a crash or a failure goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.media_files import Media, make
from tests.support.records import check_records, commit_clip
from vace_batch.batch import workers
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import another_attempt
from vace_batch.cluster.units import Call, Failure, Unit
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.schema import QualityRecord
from vace_batch.ledger.verdicts import with_verdict
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import AttemptSettings, LoraOption, Options, QualitySettings, Threshold
from vace_batch.quality.remedies import Attempt, Remedy, next_remedy
from vace_batch.report.explain import as_lines, explain
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.prepare import prepare
from vace_batch.steps.select_best import attempt_name, select_best

BOX = BoxKey(x=8, y=8, width=16, height=16)
JOB = Job(job_id="a", video_uri="v.mp4", task="removal", boxes=(BOX,))


def open_with(tmp_path: Path, attempts: int = 3, **fields: Any) -> Batch:
    path = tmp_path / "clip.mp4"
    if not path.exists():
        make(path, Media(width=96, height=64, num_frames=6))
    job = replace(JOB, video_uri=str(path), boxes=(replace(BOX, x=30, y=20),), **fields)
    options = Options(attempts=AttemptSettings(max_attempts=attempts))
    return open_batch(
        Manifest(jobs=(job,), digest="d", uri=str(tmp_path / "m.parquet")), str(tmp_path / "out"), options
    )


class Run:
    """Runs a graph's units without Ray, with the metrics that the test gives; records the kinds of finished units."""

    def __init__(self, opened: Batch, seams: Sequence[float | None]) -> None:
        self.graph = ClipGraph(opened.pending, another=another_attempt)
        self.ledger, self.seams, self.done = Ledger(opened.out), list(seams), list[str]()

    def run(self, stop_after: int = 1000) -> Run:
        queue = list(self.graph.first_units())
        for _ in range(stop_after):
            if not queue:
                break
            unit = queue.pop(0)
            queue += self._ended(unit)
        return self

    def _ended(self, unit: Unit) -> list[Unit]:
        self.done.append(unit.kind)
        payload: Any = unit.payload
        if unit.kind == "prepare":
            return list(self.graph.on_done(unit, prepare(payload, MaskModels())))
        if unit.kind == "stitch":
            return list(self.graph.on_done(unit, self._stitched(payload[0])))
        if unit.kind == "select_best":
            workers.select_best(MaskModels(), [Call(unit_id=unit.unit_id, payload=payload)])
            return list(self.graph.on_done(unit, None))
        assert unit.kind == "measure"
        key = quality_key(payload[0].clip_key)
        if self.ledger.done(key) is None:
            seam = self.seams.pop(0)
            if seam is None:
                failure = Failure(unit_id="", code="timeout", reason="it hung", retryable=True, attempts=3)
                return list(self.graph.on_failed(unit, failure))
            record: QualityRecord = {
                "clip_key": payload[0].clip_key,
                "checks": ["seam"],
                "metrics": {"seam": seam},
                "broken": [],
                "windows": 0,
                "gpu_s": 1.5,
            }
            self.ledger.commit(key, with_verdict(record, QualitySettings()))
        return list(self.graph.on_done(unit, self.ledger.done(key)))

    def _stitched(self, work: ClipWork) -> str:
        if self.ledger.done(work.clip_key) is None:
            content = f"{work.job.dilate} {work.job.mask_shape}".encode()
            commit_clip(work.out, work, {"status": "done", "windows": 0, "job_id": "a"}, content)
        return "done"


def test_the_best_attempt_is_kept_and_all_are_recorded(tmp_path: Path) -> None:
    opened = open_with(tmp_path)
    run = Run(opened, [9.0, 0.0]).run()
    assert run.done == ["prepare", "stitch", "measure"] * 2 + ["select_best"]
    assert run.graph.status["done"] == 1 and run.graph.num_clips == 1
    assert check_records(opened.out) >= {"PrepRecord", "QualityRecord", "AttemptsRecord"}
    output = Path(opened.out, opened.works[0].output)
    assert "15.0" in output.read_text()
    assert Path(opened.out, attempt_name(opened.works[0], "first")).read_text().startswith("None")
    [row] = close_batch(opened).jobs
    attempts = json.loads(row["attempts"])
    assert (row["verdict"], row["reasons"], attempts["chosen"], row["retry_gpu_s"]) == ("pass", [], 1, 1.5)
    assert [one["remedy"] for one in attempts["attempts"]] == ["first", "dilate"]
    assert [one["verdict"] for one in attempts["attempts"]] == ["review", "pass"]
    assert open_with(tmp_path).pending == () and open_with(tmp_path, attempts=1).pending == ()
    told = "\n".join(as_lines(explain(opened.out, "a")))
    assert "verdict   pass" in told and "attempt   2 dilate (kept): pass; 1.5 GPU-s" in told
    assert "attempt   1 first: review; the border of the fill shows" in told and "check     seam 9" in told


def test_a_first_attempt_that_is_best_stays(tmp_path: Path) -> None:
    opened = open_with(tmp_path)
    Run(opened, [5.0, 9.0, 8.0]).run()
    [row] = close_batch(opened).jobs
    assert (row["verdict"], json.loads(row["attempts"])["chosen"]) == ("review", 0)
    assert Path(opened.out, opened.works[0].output).read_text().startswith("None")
    assert open_with(tmp_path).pending == ()
    more = open_with(tmp_path, attempts=4)
    assert len(more.pending) == 1  # another remedy may help
    run = Run(more, [0.0]).run()
    assert run.seams == [] and run.done.count("measure") == 4  # three of them find their record
    assert close_batch(more).jobs[0]["verdict"] == "pass"


@pytest.mark.parametrize("killed_after", range(1, 8))
def test_a_crash_anywhere_continues_and_does_nothing_twice(tmp_path: Path, killed_after: int) -> None:
    seams: list[float | None] = [9.0, 0.0]
    before = Run(open_with(tmp_path), seams).run(killed_after)
    after = Run(open_with(tmp_path), before.seams).run()
    assert after.seams == []
    opened = open_with(tmp_path)
    assert opened.pending == ()
    assert "15.0" in Path(opened.out, opened.works[0].output).read_text()
    assert close_batch(opened).jobs[0]["verdict"] == "pass"


def test_an_attempt_that_fails_costs_the_clip_nothing(tmp_path: Path) -> None:
    opened = open_with(tmp_path)
    graph = ClipGraph(opened.pending, another=another_attempt)
    run = Run(opened, [9.0])
    run.graph = graph
    run.run(3)
    [first] = opened.works
    retry_unit = next(iter(graph.on_done(_measure_unit(first), run.ledger.done(quality_key(first.clip_key)))), None)
    assert retry_unit is not None and retry_unit.kind == "prepare"
    failure = Failure(unit_id="", code="worker_died", reason="killed", retryable=True, attempts=3)
    following = list(graph.on_failed(retry_unit, failure))
    assert [unit.kind for unit in following] == ["prepare"]  # the next remedy
    [end] = graph.on_failed(following[0], failure)
    assert end.kind == "select_best"
    select_best(*end.payload)  # type: ignore[misc]
    graph.on_done(end, None)
    assert graph.status == {"done": 1, "failed": 0, "skipped": 0}
    summary = close_batch(opened)
    assert (summary.done, summary.failed) == (1, 0)
    [_, *further] = json.loads(summary.jobs[0]["attempts"])["attempts"]
    assert [one["error"] for one in further] == ["worker_died: killed"] * 2


def _measure_unit(work: ClipWork) -> Unit:
    return Unit(kind="measure", key=work.clip_key, pool="cpu", fn="x:y")


def test_a_passing_clip_is_left_alone(tmp_path: Path) -> None:
    opened = open_with(tmp_path)
    run = Run(opened, [0.0]).run()
    assert run.done == ["prepare", "stitch", "measure"] and run.ledger.keys("done", "attempts") == set()
    assert open_with(tmp_path).pending == ()
    strict = QualitySettings(seam=Threshold(review=0))
    assert close_batch(opened).jobs[0]["verdict"] == "pass"
    options = opened.options.model_copy(update={"quality": strict})
    manifest = Manifest(jobs=tuple(work.job for work in opened.works), digest="d", uri=str(tmp_path / "m.parquet"))
    again = open_batch(manifest, opened.out, options)
    assert len(again.pending) == 1 and close_batch(again).jobs[0]["verdict"] == "review"


def test_another_attempt_takes_what_its_rung_needs(tmp_path: Path) -> None:
    [work] = open_with(tmp_path).works
    same = another_attempt(work, Remedy(name="seed", job=replace(work.job, seed=7), model="tiny"), "attempts/x.mp4")
    assert (same.prep_key, same.sampling, same.fingerprints) == (work.prep_key, work.sampling, work.fingerprints)
    assert same.clip_key != work.clip_key
    lora = tmp_path / "removal.safetensors"
    lora.write_bytes(b"weights")
    options = work.options.model_copy(update={"loras": (LoraOption(uri=str(lora), preset="removal-lora"),)})
    first = Attempt(
        remedy="first",
        job=work.job,
        model=work.model,
        clip_key=work.clip_key,
        output=work.output,
        max_frames=81,
        verdict="review",
        checks=("residual",),
        windows=1,
    )
    settings = AttemptSettings(max_attempts=2, remedies=("removal-lora",))
    step = next_remedy([first], settings, has_lora=True)
    assert step is not None
    with_lora = another_attempt(replace(work, options=options), step, "attempts/y.mp4")
    assert [one.uri for one in with_lora.sampling.loras] == [str(lora)] and with_lora.sampling.num_inference_steps == 20
