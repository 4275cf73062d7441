"""Test masks kept beside the results: with the run, or later for finished clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from tests.support.moving_box import boxes, job
from tests.support.noise_engine import Noise
from tests.support.records import commit_clip
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import works_of
from vace_batch.batch.workers import keep as keep_worker
from vace_batch.cluster.units import Call, Failure
from vace_batch.geometry import Box, Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Dilation, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.export_files import SUFFIXES
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options, QualitySettings
from vace_batch.steps.build import build
from vace_batch.steps.generate import generate
from vace_batch.steps.keep import keep
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch

FORMS = list(SUFFIXES)
OFF = QualitySettings(enabled=False)


@pytest.mark.parametrize("form", SUFFIXES)
def test_a_run_keeps_masks_in_each_form_and_says_them_in_the_result(tmp_path: Path, form: str) -> None:
    path = make(tmp_path / "clip.mkv", Media(num_frames=4, codec="ffv1"))
    boxes = tuple(BoxKey(x=8 + 12 * index, y=12, width=12, height=12, frame=index) for index in range(4))
    job = Job(job_id="a", video_uri=path, task="removal", boxes=boxes, dilate=Dilation(px=0.0))
    work = works_of([job], str(tmp_path / "out"), Options(keep_masks=form), str(tmp_path))[0]  # type: ignore[arg-type]
    plan = prepare(work, MaskModels())
    generate([build(work, plan, planned) for planned in plan.windows], Noise(), work.out)()  # type: ignore[arg-type]
    stitch(work, plan)
    keep(work, plan)
    record = Ledger(work.out).done(work.clip_key)
    assert record is not None and record["masks"] == f"masks/a{SUFFIXES[form]}"
    size = Size(64, 48)
    found = list(read_masks(Ledger(work.out).absolute(record["masks"]), size, 4))
    assert [(mask.index, mask.box) for mask in found] == [(n, Box(8 + 12 * n, 12, 12, 12)) for n in range(4)]
    said = tmp_path / "said.json"
    said.write_text(record["masks_coco"])
    assert list(read_masks(str(said), size, 4)) == found


def opened(tmp_path: Path, form: str | None) -> Batch:
    manifest = Manifest(jobs=(job(tmp_path),), digest="d", uri=str(tmp_path / "m.parquet"))
    return open_batch(manifest, str(tmp_path / "out"), Options(keep_masks=form, quality=OFF))  # type: ignore[arg-type]


def finish(batch: Batch) -> None:
    [work] = batch.pending
    plan = prepare(work, MaskModels())
    generate([build(work, plan, planned) for planned in plan.windows], Noise(), work.out)()  # type: ignore[arg-type]
    assert stitch(work, plan)["status"] == "done"


def kept_again(batch: Batch) -> list[str]:
    """Run the one step that `batch` has left; returns the kinds of its units."""
    graph = ClipGraph(batch.pending, batch.unkept)
    units = list(graph.first_units())
    for unit in units:
        [outcome] = keep_worker(MaskModels(), [Call(unit_id=unit.unit_id, payload=unit.payload)])
        assert list(graph.on_done(unit, outcome.meta)) == []
    return [unit.kind for unit in units]


def test_masks_of_clips_that_are_done_are_kept_when_they_are_asked_for(tmp_path: Path) -> None:
    finish(opened(tmp_path, None))
    videos = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "videos").iterdir()}
    assert opened(tmp_path, None).pending == ()
    for form in FORMS:
        assert kept_again(opened(tmp_path, form)) == ["keep"]
        [row] = close_batch(opened(tmp_path, form)).jobs
        assert row["status"] == "done" and row["masks"] == f"masks/a{SUFFIXES[form]}"
        assert boxes(tmp_path / "out" / row["masks"])[0] == 8 and '"length": 6' in row["masks_coco"]
        assert opened(tmp_path, form).pending == (), "once is enough"
    (tmp_path / "out" / "masks" / "a.parquet").unlink()
    assert kept_again(opened(tmp_path, "parquet")) == ["keep"], "they are no longer there"
    assert videos == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "videos").iterdir()}


def test_a_clip_stays_done_where_its_masks_cannot_be_kept(tmp_path: Path) -> None:
    finish(opened(tmp_path, None))
    batch = opened(tmp_path, "ffv1")
    graph = ClipGraph(batch.pending, batch.unkept)
    [unit] = graph.first_units()
    failure = Failure(unit_id=unit.unit_id, code="not_found", reason="the video is gone", retryable=False, attempts=1)
    assert list(graph.on_failed(unit, failure)) == [] and graph.status["failed"] == 1
    summary = close_batch(batch)
    assert (summary.done, summary.failed) == (1, 0) and len(opened(tmp_path, "ffv1").pending) == 1


def test_what_is_not_changed_has_no_masks_to_keep(tmp_path: Path) -> None:
    batch = opened(tmp_path, None)
    commit_clip(batch.out, batch.works[0], {"status": "skipped", "windows": 0})
    assert opened(tmp_path, "png").pending == ()
