"""Masks for people: made alone for review, or kept of clips that were done before; a death leaves nothing half."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.media_files import Media, make
from tests.support.noise_engine import Noise
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import works_of
from vace_batch.batch.workers import keep
from vace_batch.cluster.units import Call, Failure
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Dilation, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks import export_files as kept
from vace_batch.masks.export_files import SUFFIXES
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import MaskWriter
from vace_batch.options import Options, QualitySettings
from vace_batch.report import mask_review as reviewing
from vace_batch.report.mask_review import Reviewed, review
from vace_batch.steps.build import build
from vace_batch.steps.generate import generate
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.video.reader import read_frames

SIZE, NUM_FRAMES = Size(64, 48), 6
FORMS = list(SUFFIXES)


def job(tmp_path: Path, first: int = 8) -> Job:
    """A box that moves over a clip; `first` is where it begins."""
    path = tmp_path / "clip.mkv"
    if not path.exists():
        make(path, Media(num_frames=NUM_FRAMES, codec="ffv1"))
    boxes = tuple(BoxKey(x=first + 6 * index, y=12, width=12, height=12, frame=index) for index in range(NUM_FRAMES))
    return Job(job_id="a", video_uri=str(path), task="removal", boxes=boxes, dilate=Dilation(px=0.0))


def boxes(path: Path) -> list[int]:
    """Where the masks of a whole file begin."""
    masks = list(read_masks(str(path), SIZE, NUM_FRAMES))
    assert [mask.index for mask in masks] == list(range(NUM_FRAMES))
    return [mask.box.x for mask in masks]


# --- vace-batch masks ------------------------------------------------------------------------------------------------


def reviewed(tmp_path: Path, form: str, first: int) -> Reviewed:
    out = str(tmp_path / "out")
    [work] = works_of([job(tmp_path, first)], out, Options(), str(tmp_path))
    return review(work, MaskModels(), out, form)


def killed(tmp_path: Path, form: str, module: Any, name: str, calls: int) -> None:
    """Review in a process that is killed when function `name` of `module` is called so often."""
    plain, count = getattr(module, name), iter(range(1, 1000))

    def deadly(*arguments: Any) -> Any:
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    def work() -> None:
        setattr(module, name, deadly)
        reviewed(tmp_path, form, 20)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("form", FORMS)
def test_a_review_has_masks_and_a_video_of_them(tmp_path: Path, form: str) -> None:
    row = reviewed(tmp_path, form, 8)
    assert row.error is None and (row.frames, row.masked_frames) == (NUM_FRAMES, NUM_FRAMES)
    assert row.masks is not None and boxes(Path(row.masks)) == [8 + 6 * index for index in range(NUM_FRAMES)]
    shown = [frame.rgb() for frame in read_frames(row.overlay or "")]
    inside, outside = np.mean([rgb[14:22, 10 + 6 * n : 18 + 6 * n, 0] for n, rgb in enumerate(shown)]), shown[0][40, 4]
    assert len(shown) == NUM_FRAMES and inside > outside[0] + 60, "masked pixels are tinted red"


@pytest.mark.parametrize(
    ("form", "place", "name", "calls"),
    [
        ("ffv1", kept, "_full", 4),
        ("png", kept, "_full", 4),
        ("parquet", MaskWriter, "add", NUM_FRAMES + 4),
        ("coco", kept.Path, "write_text", 1),
        ("coco", reviewing, "at_most", 1),
    ],
)
def test_a_review_that_is_killed_leaves_nothing_half(
    tmp_path: Path, form: str, place: Any, name: str, calls: int
) -> None:
    """It dies over the masks, or with `at_most` over the video, of which there are earlier ones."""
    target, overlay = tmp_path / "out" / f"a{SUFFIXES[form]}", tmp_path / "out" / "a-overlay.mp4"
    reviewed(tmp_path, form, 8)
    before = overlay.read_bytes()
    killed(tmp_path, form, place, name, calls)
    assert boxes(target)[0] == (20 if place is reviewing else 8) and overlay.read_bytes() == before
    assert reviewed(tmp_path, form, 20).error is None and boxes(target)[0] == 20 and overlay.read_bytes() != before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {target.name, overlay.name}, "nothing is left over"


# --- --keep-masks ----------------------------------------------------------------------------------------------------


OFF = QualitySettings(enabled=False)


def opened(tmp_path: Path, form: str | None) -> Batch:
    manifest = Manifest(jobs=(job(tmp_path),), digest="d", uri=str(tmp_path / "m.parquet"))
    return open_batch(manifest, str(tmp_path / "out"), Options(keep_masks=form, quality=OFF))  # type: ignore[arg-type]


def finish(batch: Batch) -> None:
    [work] = batch.pending
    plan = prepare(work, MaskModels())
    generate([build(work, plan, planned) for planned in plan.windows], Noise(), work.out)()  # type: ignore[arg-type]
    assert stitch(work, plan)["status"] == "done"


def kept_again(batch: Batch) -> list[str]:
    """Run what a run of `batch` would, which must be one step; the kinds of its units."""
    graph = ClipGraph(batch.pending, batch.unkept)
    units = list(graph.first_units())
    for unit in units:
        [outcome] = keep(MaskModels(), [Call(unit_id=unit.unit_id, payload=unit.payload)])
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
    Ledger(batch.out).commit(batch.works[0].clip_key, {"status": "skipped", "windows": 0})
    assert opened(tmp_path, "png").pending == ()
