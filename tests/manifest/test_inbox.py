"""Test that each incoming file becomes a row once, when the file has settled."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from vace_batch.errors import ManifestError, UsageError
from vace_batch.manifest.inbox import Incoming, poll, settle
from vace_batch.manifest.reader import read_manifest
from vace_batch.storage import files as storage

BOXES = [{"x": 0.0, "y": 0.0, "width": 8.0, "height": 8.0}]
COLUMNS = {"task": "removal", "boxes": BOXES}


class Folder:
    """A folder with files, and a clock."""

    def __init__(self, place: str) -> None:
        self.inbox, self.out, self.now = f"{place}/in", f"{place}/out", 1000.0

    def put(self, name: str, content: str = "x") -> None:
        storage.publish(f"{self.inbox}/{name}", content.encode())

    def poll(self, after_s: float = 0, **columns: object) -> Incoming:
        self.now += after_s
        return poll(self.inbox, self.out, COLUMNS | columns, settle_s=60, clock=lambda: self.now)

    def jobs(self) -> dict[str, str]:
        jobs = read_manifest(f"{self.out}/watch/manifest.parquet").jobs
        return {job.job_id: job.video_uri.rpartition("/in/")[2] for job in jobs}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def told(found: Incoming) -> tuple[int, int, int, bool]:
    return found.rows, found.new, found.waiting, found.is_due


def test_a_file_is_a_row_once_it_has_been_the_same_for_long_enough(folder: Folder) -> None:
    folder.put("a.mp4")
    folder.put(".hidden/b.mp4")
    folder.put("notes.txt")
    assert told(folder.poll()) == (0, 0, 1, False)
    assert told(folder.poll(59)) == (0, 0, 1, False)
    folder.put("a.mp4", "more")  # it was still being written
    assert told(folder.poll(1)) == (0, 0, 1, False)
    for after_s in (30, 29):  # looks in between do not begin the wait again
        assert told(folder.poll(after_s)) == (0, 0, 1, False)
    assert told(folder.poll(1)) == (1, 1, 0, True)
    assert folder.jobs() == {"a": "a.mp4"}


def test_what_was_taken_is_not_new_again_and_a_batch_that_has_not_ended_is_due(folder: Folder) -> None:
    folder.put("a.mp4")
    folder.poll()
    assert folder.poll(60).is_due
    assert told(folder.poll(60)) == (1, 0, 0, True), "the batch was killed"
    settle(folder.out)
    assert told(folder.poll(60)) == (1, 0, 0, False)
    folder.put("a.mov")
    folder.put("sub/c.mp4")
    folder.poll()
    assert told(folder.poll(60)) == (3, 2, 0, True)
    assert folder.jobs() == {"a": "a.mp4", "a.mov": "a.mov", "sub/c": "sub/c.mp4"}, "ids stay"
    settle(folder.out)
    assert told(folder.poll(60, seed=3)) == (3, 0, 0, True), "other columns are other rows"
    assert told(folder.poll(60, seed=3)) == (3, 0, 0, True)
    settle(folder.out)
    assert told(folder.poll(60, seed=3)) == (3, 0, 0, False)


def test_a_file_that_is_written_again_waits_and_one_that_is_gone_is_no_row(folder: Folder) -> None:
    for name in ("a.mp4", "b.mp4"):
        folder.put(name)
    folder.poll()
    folder.poll(60)
    settle(folder.out)
    folder.put("b.mp4", "another")
    assert told(folder.poll(60)) == (1, 0, 1, False)
    assert folder.jobs() == {"a": "a.mp4"}
    assert told(folder.poll(60)) == (2, 1, 0, True)
    assert folder.jobs() == {"a": "a.mp4", "b": "b.mp4"}
    storage.delete(f"{folder.inbox}/a.mp4")
    assert told(folder.poll(60))[0] == 1 and folder.jobs() == {"b": "b.mp4"}
    storage.delete(f"{folder.inbox}/b.mp4")
    assert told(folder.poll(60)) == (0, 0, 0, False)
    assert not storage.exists(f"{folder.out}/watch/manifest.parquet")


def test_columns_that_no_row_may_have_are_refused(folder: Folder) -> None:
    folder.put("a.mp4")
    folder.poll()
    with pytest.raises(ManifestError, match="seed"):
        folder.poll(60, seed=-1)
    with pytest.raises(UsageError, match="settle_s: expected 0 or more, got -1"):
        poll(folder.inbox, folder.out, COLUMNS, settle_s=-1)
    with pytest.raises(UsageError, match="not below"):
        poll(folder.inbox, f"{folder.inbox}/out", COLUMNS)
    assert not storage.exists(f"{folder.inbox}/out/watch/seen.json")
    poll(folder.inbox, f"{folder.inbox}-out", COLUMNS)
