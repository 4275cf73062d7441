"""A batch in its output folder: finished clips stay finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.media_files import Media, make
from tests.support.records import commit_clip
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.options import Options
from vace_batch.steps.measure import unmeasured

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


def test_a_second_manifest_with_more_rows_keeps_what_is_done(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    first = batch(tmp_path, job(path, "a"))
    commit_clip(first.out, first.works[0], {"status": "done", "windows": 1, "seconds": 1.0, "runs": 1})
    assert batch(tmp_path, job(path, "a")).pending  # it is not measured yet
    [work] = first.works
    Ledger(first.out).commit(quality_key(work.clip_key), unmeasured(work, "a test"))
    second = batch(tmp_path, job(path, "a"), job(path, "b"))
    assert [work.job.job_id for work in second.pending] == ["b"]
    summary = close_batch(second)
    assert (summary.planned, summary.done, summary.pending) == (2, 1, 1)
