"""Rows that are run again: their selection, their changed values, and rows that stay untouched."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.media_files import Media, make
from tests.support.records import check_records, commit_clip
from vace_batch.batch.batch import open_batch
from vace_batch.batch.retry import prepare_retry
from vace_batch.errors import ManifestError, UsageError
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.run_plan import PlannedJob, read_plan
from vace_batch.ledger.schema import QualityRecord
from vace_batch.ledger.summary import summarise
from vace_batch.ledger.verdicts import with_verdict
from vace_batch.manifest.job import BoxKey, Dilation, Job
from vace_batch.manifest.reader import Manifest, read_manifest
from vace_batch.options import Options, QualitySettings
from vace_batch.report.explain import as_lines, explain

BOX = BoxKey(x=8, y=8, width=16, height=16)
JOB = Job(job_id="a", video_uri="/v.mp4", task="removal", boxes=(BOX,))


class Archive:
    """Three rows of one run: the first failed, the second is for review, the third is good."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, str(folder / "out")
        self.path = folder / "m.parquet"
        box = {"x": 8.0, "y": 8.0, "width": 16.0, "height": 16.0}
        rows = [{"job_id": name, "video_uri": f"{name}.mp4", "task": "removal", "boxes": [box]} for name in "abc"]
        pq.write_table(pa.Table.from_pylist(rows), self.path)
        for name in "abc":
            make(folder / f"{name}.mp4", Media(width=96, height=64, num_frames=3))
        failed, doubtful, good = self.planned()
        ledger = Ledger(self.out)
        ledger.quarantine(failed, {"status": "failed", "job_id": "a", "error_code": "x", "reason": "y"})
        for key, name, seam in ((doubtful, "b", 9.0), (good, "c", 0.0)):
            record: QualityRecord = {"clip_key": key, "checks": ["seam"], "metrics": {"seam": seam}, "broken": []}
            ledger.commit(quality_key(key), with_verdict(record, QualitySettings()))
            commit_clip(
                self.out, self.clips()[name], {"status": "done", "windows": 0, "job_id": name}, f"first {name}".encode()
            )

    def clips(self) -> dict[str, PlannedJob]:
        return {job.job_id: job for job in read_plan(self.out)}

    def planned(self) -> list[str]:
        opened = open_batch(read_manifest(str(self.path)), self.out, Options())
        return [job.clip_key for job in opened.planned]

    def pending(self, manifest: Manifest, options: Options) -> dict[str, Job]:
        return {work.job.job_id: work.job for work in open_batch(manifest, self.out, options).pending}


def test_failed_rows_are_tried_as_they_were(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert archive.pending(read_manifest(str(archive.path)), Options()) == {}
    pending = archive.pending(*prepare_retry(archive.out))
    assert list(pending) == ["a"] and pending["a"].seed is None


def test_a_reviewed_row_is_made_anew_with_something_changed_and_its_output_kept(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    before = archive.planned()
    manifest, options = prepare_retry(archive.out, rows=["review"], values={"seed": 5})
    pending = archive.pending(manifest, options)
    assert {name: job.seed for name, job in pending.items()} == {"b": 5}
    [kept] = (tmp_path / "out" / "attempts").iterdir()
    assert kept.read_text() == "first b" and kept.name.startswith("b.") and kept.name.endswith(".first.mp4")
    after = archive.planned()
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]
    assert summarise(archive.out).pending == 1
    assert check_records(archive.out) >= {"OverrideRecord", "RunRecord", "QualityRecord", "FailureRecord"}
    assert "override  20" in "\n".join(as_lines(explain(archive.out, "b")))
    # The batch's own command means the same rows from now on.
    assert set(archive.pending(read_manifest(str(archive.path)), Options())) == {"b"}


def test_a_changed_row_that_failed_again_is_tried_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for _ in range(2):
        pending = archive.pending(*prepare_retry(archive.out, jobs=["a"], values={"dilate": "12px"}))
        assert {name: job.dilate for name, job in pending.items()} == {"a": Dilation(px=12.0)}
        key = archive.planned()[0]
        Ledger(archive.out).quarantine(key, {"status": "failed", "job_id": "a", "error_code": "x", "reason": "y"})


def test_what_cannot_be_meant_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for arguments, said in (
        ({"jobs": ["c"]}, "--job: expected failed or lost rows of .*, got c"),
        ({"jobs": ["c"], "values": {"seed": 1}}, "got c"),
        ({"rows": ["done"]}, "got done"),
        ({"rows": ["review"]}, "--set COLUMN=VALUE"),
    ):
        with pytest.raises(UsageError, match=said):
            prepare_retry(archive.out, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ManifestError) as error:
        prepare_retry(archive.out, rows=["failed", "review"], values={"boxes": None})
    assert {fault.job_id for fault in error.value.faults} == {"a", "b"}
    assert archive.pending(read_manifest(str(archive.path)), Options()) == {}
    assert not (tmp_path / "out" / "ledger" / "overrides").exists()
