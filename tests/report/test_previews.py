"""Previews: the clips that get one, and the frames in it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.support.report_out import clips_of, jobs, make_filmed_out, make_out, result
from vace_batch.report.previews import most_doubtful
from vace_batch.report.writer import write_report
from vace_batch.video.reader import read_frames


def test_previews_are_small_begin_before_the_change_and_are_made_once(tmp_path: Path) -> None:
    out = make_filmed_out(tmp_path / "film")
    assert write_report(out, previews=3).clips == 1
    to = Path(out, "report")
    (clip,) = clips_of(to)
    preview = clip["preview"]
    assert preview["rate"] == 10 and "from frame 0" in preview["note"]
    frames = {
        kind: [frame.rgb() for frame in read_frames(str(to / preview[kind]))] for kind in ("before", "mask", "after")
    }
    assert [len(found) for found in frames.values()] == [30, 30, 30]
    square = {kind: found[25][45, 65].astype(int) for kind, found in frames.items()}
    assert square["before"][0] > 150 and abs(square["after"] - 85).max() < 12 and square["mask"][2] < 60
    assert abs(frames["mask"][5].astype(int) - frames["before"][5].astype(int)).max() < 12
    with Image.open(to / preview["after_poster"]) as poster:
        assert poster.format == "JPEG" and poster.size == (160, 90)
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*.mp4")}
    write_report(out, previews=1)
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*.mp4")} == before and len(before) == 3


def test_a_source_that_the_run_may_not_read_has_no_preview(tmp_path: Path) -> None:
    out = Path(make_filmed_out(tmp_path / "film"))
    elsewhere = tmp_path / "elsewhere.mp4"
    (tmp_path / "film/source.mp4").rename(elsewhere)
    (tmp_path / "film/source.mp4").symlink_to(elsewhere)
    write_report(str(out), previews=1)
    (clip,) = clips_of(out / "report")
    assert "may not be read" in clip["preview"]["note"] and not list(out.rglob("report/*.mp4"))


def test_doubtful_clips_come_first(tmp_path: Path) -> None:
    words = ["pass", "fail", None, "review"]
    rows = [result(0, verdict=word) for word in words]
    out = make_out(tmp_path / "out", jobs(4), rows)
    assert [most_doubtful(out, count) for count in (0, 1, 2, 9)] == [set(), {1}, {1, 3}, {0, 1, 2, 3}]
