"""A clip is done only while its video is the one that its record names: lost and replaced videos are made again."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.test_retry import Archive as Rows
from tests.support import s3_server
from tests.support.media_files import Media, make
from tests.support.records import check_records
from tests.support.run_by_hand import Run
from vace_batch.batch.retry import prepare_retry
from vace_batch.cluster.units import Unit
from vace_batch.errors import ClipError, UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.verify import verify
from vace_batch.manifest.job import BoxKey, Job, Protect
from vace_batch.manifest.reader import Manifest, read_manifest
from vace_batch.options import AttemptSettings, Options, QualitySettings, Threshold
from vace_batch.quality.remedies import FIRST
from vace_batch.steps.select_best import attempt_name
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage

BOX = BoxKey(x=30, y=20, width=24, height=24)
WHOLE = BoxKey(x=0, y=0, width=96, height=64)
REMADE = ["prepare", "stitch", "measure"]


class Archive:
    """Two rows of one clip: `a` is inpainted, `b` has nothing to change and becomes a copy."""

    def __init__(self, folder: Path, out: str | None = None) -> None:
        path = make(folder / "clip.mp4", Media(width=96, height=64, num_frames=6))
        row = Job(job_id="a", video_uri=path, task="inpainting", prompt="x", boxes=(BOX,), background="off")
        copy = replace(row, job_id="b", task="removal", boxes=(WHOLE,), protect=Protect(boxes=(WHOLE,)))
        self.manifest = Manifest(jobs=(row, copy), digest="d", uri=str(folder / "m.parquet"))
        self.out = out or str(folder / "out")
        self.video, self.copy = Path(self.out, "videos/a.mp4"), Path(self.out, "videos/b.mp4")

    def run(self, *, check: bool = False, **options: object) -> list[str]:
        """Run the manifest; returns the kinds of the units that were run."""
        run = Run(self.manifest, self.out, Options(**options), verify=check)  # type: ignore[arg-type]
        summary = run.run()
        assert (summary.done, summary.skipped, summary.pending) == (1, 1, 0)
        return run.kinds

    def notes(self, job_id: str = "a") -> list[str]:
        """Return the remarks of the last run's row that speak of videos made again."""
        work = next(work for work in Run(self.manifest, self.out, Options()).batch.works if work.job.job_id == job_id)
        record = Ledger(self.out).clip(work.clip_key)
        assert record is not None
        return [note for note in record["notes"] if note.startswith("made again")]

    def problems(self) -> list[str]:
        return [str(problem) for problem in verify(self.out)]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(tmp_path)
    kinds = archive.run()
    assert kinds.count("generate") == 1 and kinds.count("stitch") == 2
    assert archive.problems() == [] and archive.run() == [] and archive.notes() == []
    return archive


def test_settings_that_are_changed_and_changed_back_give_their_own_picture(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    first, windows = archive.video.read_bytes(), Ledger(archive.out).keys("done", "window")
    assert archive.run(crf=40).count("stitch") == 2 and archive.video.read_bytes() != first
    assert archive.problems() == [] and archive.run(crf=40) == []
    assert archive.run() == REMADE, "the copy of the source is the same file for both settings"
    assert archive.video.read_bytes() == first and Ledger(archive.out).keys("done", "window") == windows
    assert archive.notes() == ["made again: videos/a.mp4 was made with other settings"]
    assert "videos/a.mp4 was made with other settings: not finished; made again" in caplog.text
    assert archive.problems() == [] and archive.run() == []
    assert check_records(archive.out) >= {"ClipRecord", "MishapRecord"}


def _cut(path: Path) -> None:
    os.truncate(path, 100)


def _replace(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("name", ["video", "copy"])
@pytest.mark.parametrize(
    ("lose", "problem"),
    [
        (Path.unlink, "is missing"),
        (_cut, "is cut off: 100 bytes, "),
        (_replace, "was replaced: its content is not what was written"),
    ],
)
def test_a_lost_video_is_made_again_from_its_windows(
    archive: Archive, name: str, lose: Callable[[Path], None], problem: str
) -> None:
    path, job_id = (archive.video, "a") if name == "video" else (archive.copy, "b")
    whole = path.read_bytes()
    lose(path)
    [line] = archive.problems()
    assert line.startswith(f"{job_id}: videos/{job_id}.mp4 {problem}")
    assert archive.run() == (REMADE if name == "video" else REMADE[:-1]), "a skipped clip has nothing to measure"
    assert path.read_bytes() == whole and archive.problems() == [] and archive.run() == []
    [note] = archive.notes(job_id)
    assert note.startswith(f"made again: videos/{job_id}.mp4 {problem}")


def test_a_video_of_equal_size_and_time_is_found_by_reading_it(archive: Archive) -> None:
    stat, whole = os.stat(archive.video), archive.video.read_bytes()
    _replace(archive.video)
    os.utime(archive.video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert archive.run() == []
    assert archive.problems() == ["a: videos/a.mp4 was replaced: its content is not what was written"]
    assert archive.run(check=True) == REMADE and archive.video.read_bytes() == whole and archive.problems() == []


def test_a_copied_output_folder_is_read_once_and_stays_done(archive: Archive, tmp_path: Path) -> None:
    for path in (archive.video, archive.copy):
        os.utime(path, (1, 1))
    shutil.move(archive.out, tmp_path / "moved")
    archive.out = str(tmp_path / "moved")
    assert archive.run() == [] and archive.problems() == []
    work = Run(archive.manifest, archive.out, Options()).batch.works[0]
    record = Ledger(archive.out).clip(work.clip_key)
    assert record is not None and record["output_version"].startswith("1000000000-")


def test_a_window_whose_artifact_is_lost_is_generated_again(archive: Archive) -> None:
    [artifact] = Path(archive.out, "artifacts").rglob("*.mkv")
    artifact.write_bytes(b"broken")
    [line] = archive.problems()
    assert "is not what was written (window-" in line
    assert archive.run() == [], "the finished video does not need it"
    archive.video.unlink()
    assert archive.run() == ["prepare", "build", "generate", "stitch", "measure"] and archive.problems() == []
    for artifact in Path(archive.out, "artifacts").rglob("*.mkv"):
        artifact.unlink()
    assert any("is missing (window-" in line for line in archive.problems())
    assert archive.run(check=True) == [], "no unfinished clip needs it"
    assert archive.problems() == []
    shutil.rmtree(Path(archive.out, "artifacts"))
    archive.video.unlink()
    assert archive.run() == ["prepare", "build", "generate", "stitch", "measure"]


def test_retry_runs_a_lost_row_and_refuses_a_finished_one(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    with pytest.raises(UsageError, match="got c"):
        prepare_retry(rows.out, jobs=["c"])
    (tmp_path / "out/videos/c.mp4").unlink()
    assert set(rows.pending(*prepare_retry(rows.out, jobs=["c"]))) == {"c"}
    assert set(rows.pending(read_manifest(str(rows.path)), Options())) == {"c"}


def test_a_run_whose_video_another_run_replaces_is_not_done(archive: Archive) -> None:
    other = Run(archive.manifest, archive.out, Options(crf=40))

    def meanwhile(unit: Unit) -> None:
        if unit.kind == "measure" and not other.kinds:
            other.run()

    one = Run(archive.manifest, archive.out, Options(crf=30))
    summary = one.run(before=meanwhile)
    assert (summary.done, summary.pending) == (0, 1), "the copy is the same file for both"
    assert archive.run(crf=30) == REMADE and archive.problems() == []


def test_a_video_that_is_replaced_while_it_is_recorded_fails_its_row(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(archive.manifest, archive.out, Options(crf=40))
    work = run.batch.works[0]
    commit = Ledger.commit

    def replaced(ledger: Ledger, key: str, record: object) -> bool:
        if key == work.clip_key:
            _cut(archive.video)
        return commit(ledger, key, record)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "commit", replaced)
    with pytest.raises(ClipError, match="output_replaced: videos/a.mp4 is cut off"):
        run.run()
    assert Ledger(archive.out).clip(work.clip_key) is None


def test_of_two_writers_of_one_clip_the_record_names_the_video_that_is_there(archive: Archive) -> None:
    run = Run(archive.manifest, archive.out, Options(crf=40))
    work, ledger = run.batch.works[0], Ledger(archive.out)
    plan = run.plan_of(work)
    slower: dict[str, object] = {"status": "done", "num_bytes": 3, "sha256": "0" * 64, "output_version": "1-3"}
    commit = Ledger.commit

    def overtaken(self: Ledger, key: str, record: object) -> bool:
        commit(self, key, slower)  # type: ignore[arg-type]
        return commit(self, key, record)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "commit", overtaken)
        record = stitch(work, plan)
    assert record["num_bytes"] == archive.video.stat().st_size and record == ledger.clip(work.clip_key)


def test_the_chosen_attempt_is_what_the_output_is_compared_with(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vace_batch.batch.graph.best_of", lambda made: len(made) - 1)
    strict = QualitySettings(outside=Threshold(review=0.0), seam=Threshold(review=0.0))
    options = {"attempts": AttemptSettings(max_attempts=2, remedies=("dilate",)), "quality": strict}
    first = archive.video.read_bytes()
    kinds = archive.run(**options)
    assert kinds.count("select_best") == 1 and archive.video.read_bytes() != first
    assert archive.run(**options) == [] and archive.problems() == []
    assert archive.run(quality=strict) == []
    chosen = archive.video.read_bytes()
    archive.video.write_bytes(b"lost")
    work = Run(archive.manifest, archive.out, Options(**options)).batch.works[0]  # type: ignore[arg-type]
    assert not Path(archive.out, attempt_name(work, FIRST)).exists()
    again = archive.run(**options)
    assert "generate" not in again and again.count("select_best") == 1
    assert archive.video.read_bytes() == chosen and archive.run(**options) == [] and archive.problems() == []


def test_an_output_of_other_attempts_or_of_a_retry_is_done(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vace_batch.batch.graph.best_of", lambda made: len(made) - 1)
    strict = QualitySettings(outside=Threshold(review=0.0), seam=Threshold(review=0.0))
    two, three = (AttemptSettings(max_attempts=number, remedies=("dilate", "seed")) for number in (2, 3))
    assert archive.run(attempts=two, quality=strict).count("select_best") == 1
    second = archive.video.read_bytes()
    assert archive.run(attempts=three, quality=strict).count("select_best") == 1
    third = archive.video.read_bytes()
    assert third != second
    for attempts in (two, three, AttemptSettings()):
        assert archive.run(attempts=attempts, quality=strict) == [] and archive.problems() == []
    assert archive.video.read_bytes() == third


def test_a_row_that_retry_changed_is_done_and_its_first_video_is_made_again_when_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "a.mp4", Media(width=96, height=64, num_frames=6))
    path, out = tmp_path / "m.parquet", str(tmp_path / "out")
    box = {"x": 30.0, "y": 20.0, "width": 24.0, "height": 24.0}
    row = {"job_id": "a", "video_uri": "a.mp4", "task": "removal", "boxes": [box], "background": "off"}
    pq.write_table(pa.Table.from_pylist([row]), path)
    review = Options(quality=QualitySettings(seam=Threshold(review=0.0)))
    video = tmp_path / "out/videos/a.mp4"

    def run(manifest: Manifest, options: Options = review) -> list[str]:
        run = Run(manifest, out, options)
        assert run.run().done == 1
        return run.kinds

    def rerun() -> list[str]:
        return run(read_manifest(str(path)))

    run(read_manifest(str(path)))
    first = video.read_bytes()
    assert "generate" in run(*prepare_retry(out, jobs=["a"], values={"dilate": "5px"})) and video.read_bytes() != first
    assert rerun() == [] and list(verify(out)) == []
    assert "stitch" in run(*prepare_retry(out, jobs=["a"], values={"dilate": "20px"})) and rerun() == []
    assert run(*prepare_retry(out, jobs=["a"], values={"dilate": None})) == REMADE, "the windows of the first are there"
    assert video.read_bytes() == first and rerun() == [] and list(verify(out)) == []

    pq.write_table(pa.Table.from_pylist([row | {"dilate": "5px"}]), path)
    assert rerun() == REMADE and video.read_bytes() != first, "a reviewer's manifest of rows to redo"
    assert rerun() == [] and list(verify(out)) == []
    with pytest.raises(UsageError, match="got a"):
        prepare_retry(out, jobs=["a"])


def test_verify_finds_stray_videos_and_rows_without_records(archive: Archive) -> None:
    archive.video.with_name("stray.mp4").write_bytes(b"?")
    [done] = Path(archive.out, "results/status=done").iterdir()
    done.unlink()
    assert archive.problems() == [
        "a: results/status=done lacks the row",
        "videos/stray.mp4 belongs to no finished clip",
    ]


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_videos_in_a_store_are_compared_by_size_and_etag(tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        uri = f"memory://{uuid.uuid4().hex}"
        if kind == "s3":
            uri = stack.enter_context(s3_server.bucket(stack.enter_context(s3_server.moto(tmp_path))))
        archive = Archive(tmp_path, storage.join(uri, "out"))
        archive.run()
        assert archive.run() == [] and archive.problems() == []
        for name in ("videos/a.mp4", "videos/b.mp4"):
            video = storage.join(archive.out, name)
            whole = storage.read_bytes(video)
            storage.publish(video, whole)
            assert archive.run() == [], "the same content was put there again"
            for content, problem in ((None, "is missing"), (whole[:100], "is cut off"), (whole[::-1], "was replaced")):
                storage.delete(video) if content is None else storage.publish(video, content)
                [line] = archive.problems()
                assert f"{name} {problem}" in line
                assert archive.run() == (REMADE if name == "videos/a.mp4" else REMADE[:-1])
                assert storage.read_bytes(video) == whole
                assert archive.run() == [] and archive.problems() == []
