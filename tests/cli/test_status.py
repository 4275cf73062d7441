"""`vace-batch status --verify` names finished rows whose video is lost."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from tests.batch.test_retry import Archive
from vace_batch.batch.retry import prepare_retry
from vace_batch.cli.app import app


def test_lost_videos_are_listed_and_status_alone_shows_the_records(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.pending(*prepare_retry(archive.out, jobs=["a"]))  # the failed row is pending again
    videos = tmp_path / "out" / "videos"
    runner = CliRunner()
    assert "lost" not in runner.invoke(app, ["status", archive.out, "--verify"]).output
    (videos / "b.mp4").unlink()
    (videos / "c.mp4").write_bytes(b"?")
    done = runner.invoke(app, ["status", archive.out, "--verify"])
    assert [line for line in done.output.splitlines() if line.startswith("lost")] == [
        "lost     b: videos/b.mp4 is missing; the next run makes the video again",
        "lost     c: videos/c.mp4 is cut off: 1 bytes, 7 were written; the next run makes the video again",
    ]
    assert done.exit_code == 1
    alone = runner.invoke(app, ["status", archive.out])
    assert alone.exit_code == 0 and "lost" not in alone.output
