"""Rows of the plan with their results, in the manifest's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.report_out import clips_of, jobs, make_out, result
from vace_batch.errors import UsageError
from vace_batch.manifest.builder import build_manifest
from vace_batch.manifest.job import job_json
from vace_batch.manifest.reader import read_manifest
from vace_batch.report.rows import manifest_row, read_clips
from vace_batch.report.tally import Tally
from vace_batch.report.writer import write_report


def test_counters_add_up_and_clips_come_in_the_manifest_s_order(tmp_path: Path) -> None:
    rows = [None if number == 8 else result(number) for number in range(30)]
    out = make_out(tmp_path / "out", jobs(30), rows)
    clips = list(read_clips(out))
    assert [clip.job_id for clip in clips] == [job.job_id for job in jobs(30)]
    assert [clip.status for clip in clips] == ["pending" if row is None else row["status"] for row in rows]
    tally = Tally()
    for clip in clips:
        tally.add(clip)
    tally.check()
    assert tally.planned == 30 and tally.status == {"done": 24, "failed": 3, "skipped": 2, "pending": 1}
    assert sum(tally.verdict.values()) == 24 and tally.windows == sum(row["windows"] for row in rows if row)
    seconds = sum(window["seconds"] for row in rows if row for window in row["window_rows"])
    assert tally.gpu_s == pytest.approx(seconds) == pytest.approx(sum(gpu_s for _, _, gpu_s in tally.over_time()[1]))
    tally.status["done"] += 1
    with pytest.raises(AssertionError, match="add up"):
        tally.check()


def test_rows_of_an_earlier_run_are_left_out_and_another_order_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_out(out, jobs(9), [result(0) for _ in range(9)])
    kept = (out / "results/status=done/clips.parquet").read_bytes()
    make_out(out, jobs(9)[:4], [None] * 4)
    (out / "results/status=done/clips.parquet").write_bytes(kept)
    assert [clip.status for clip in read_clips(str(out))] == ["done"] * 4
    make_out(out, jobs(4), [result(0) for _ in range(4)], order=[2, 1, 0, 3])
    with pytest.raises(UsageError, match="--refresh"):
        list(read_clips(str(out)))


def test_results_of_a_version_without_verdicts_and_times_are_shown(tmp_path: Path) -> None:
    bare = {"status": "done", "runs": 1, "windows": 0, "seconds": 1.0, "window_rows": [], "settings": None}
    out = make_out(tmp_path / "out", jobs(2), [bare, bare])
    write_report(out)
    assert [clip["verdict"] for clip in clips_of(tmp_path / "out/report")] == [None, None]
    assert "not judged" in (tmp_path / "out/report/index.html").read_text()


def test_skipped_clips_are_counted_in_the_heading_and_have_no_verdict(tmp_path: Path) -> None:
    reason = "no person was found in 9 frames looked at; the output is a copy"
    skipped = {**result(0), "status": "skipped", "reason": reason, "verdict": None, "reasons": []}
    out = make_out(tmp_path / "out", jobs(2), [{**result(1), "status": "done"}, skipped])
    write_report(out)
    page = (tmp_path / "out/report/index.html").read_text()
    assert "2 clips, 1 skipped</h1>" in page and '<a href="#clips?status=skipped">1 skipped</a>' in page
    shown = clips_of(tmp_path / "out/report")[1]
    assert (shown["status"], shown["verdict"], shown["reasons"]) == ("skipped", None, [reason])


def cell(value: Any) -> str:
    """Quote a CSV cell as the page does: only an empty cell has no quotes."""
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return "" if value is None else '"' + text.replace('"', '""') + '"'


def test_a_redo_row_asks_for_the_same_as_its_job(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    video = str(tmp_path / "a.mp4")
    columns = "job_id,video_uri,task,targets,boxes,dilate,negative_prompt,prompt,seed,sampling,protect"
    lines = [
        f"plain,{video},removal,person,,,,,,,",
        f'"much, ""quoted""",{video},removal,,"[{{""x"":1,""y"":2,""width"":30,""height"":40}}]",5%,"","x\ny",7,,',
        f'more,{video},removal,"[""cat"",""dog""]",,3px,,,,"{{""flow_shift"":2.5}}","{{""targets"":[""person""]}}"',
    ]
    (tmp_path / "first.csv").write_text("\n".join([columns, *lines]) + "\n")
    build_manifest(str(tmp_path / "first.csv"), str(tmp_path / "first.parquet"))
    asked = read_manifest(str(tmp_path / "first.parquet")).jobs
    rows = [manifest_row(json.loads(job_json(job))) for job in asked]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(tmp_path / "redo.csv", "w") as file:
        file.write(",".join(names) + "\n")
        file.writelines(",".join(map(cell, map(row.get, names))) + "\n" for row in rows)
    build_manifest(str(tmp_path / "redo.csv"), str(tmp_path / "redo.parquet"))
    again = read_manifest(str(tmp_path / "redo.parquet")).jobs
    for before, after in zip(asked, again, strict=True):
        assert json.loads(job_json(after)) == json.loads(job_json(before))


def test_results_of_another_schema_version_are_refused(tmp_path: Path) -> None:
    out = make_out(tmp_path / "out", jobs(1), [result(0)])
    clips = tmp_path / "out/results/status=done/clips.parquet"
    pq.write_table(pq.read_table(clips).replace_schema_metadata({}), clips)
    with pytest.raises(UsageError, match=r"results: has no schema version, expected 1; give --refresh"):
        write_report(out)
