"""The page's data: text stays text, credentials are removed, repeated text is stored once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from tests.support.report_out import HOSTILE, clips_of, jobs, make_out, parse, result
from vace_batch.manifest.job import Job
from vace_batch.report.data_files import INDEX, INDEX_NUMBERS, by_column, script
from vace_batch.report.writer import write_report


def test_text_from_manifests_and_reasons_stays_text(tmp_path: Path) -> None:
    asked = [
        Job(job_id=text, video_uri=text, task="restyle", prompt=text, targets=(text,), model=text) for text in HOSTILE
    ]
    rows = [
        result(0, reason=text, error_code=text, notes=[text], reasons=[text], settings=json.dumps({text: text}))
        for text in HOSTILE
    ]
    folder = tmp_path / "<i>out</i>"
    write_report(make_out(folder, asked, rows))
    page = (folder / "report/index.html").read_text()
    assert "<i>" not in page and "&lt;i&gt;out" in page
    assert "onerror" not in re.sub(r"&[#\w]+;[^<]*", "", page) and page.count("<script") == 1
    for path in sorted((folder / "report/data").iterdir()):
        data = path.read_bytes()
        assert data.isascii() and not set(data) & set(b"<>&\x00") and data.count(b"\n") == 1
    found = clips_of(folder / "report")
    assert [clip["job_id"] for clip in found] == list(HOSTILE)
    assert [clip["notes"] for clip in found] == [[text] for text in HOSTILE]
    assert [clip["links"]["source"] for clip in found if clip["links"]["source"][:1] not in ".%"] == []


def test_a_script_is_json_of_anything() -> None:
    lone = "a\ud800b"
    assert parse(script("clips", 3, {"x": lone})) == ("clips", 3, {"x": lone})
    assert parse(script("index", 0, ["\u2028", "</script>"])) == ("index", 0, ["\u2028", "</script>"])


def test_credentials_are_not_told(tmp_path: Path) -> None:
    asked = [replace(job, video_uri="https://host/a.mp4?token=abc123") for job in jobs(1)]
    write_report(make_out(tmp_path / "out", asked, [result(0)]))
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out/report").rglob("*") if path.is_file())
    assert b"abc123" not in everything and b"***" in everything


def test_columns_that_repeat_are_told_once() -> None:
    row = dict.fromkeys(INDEX, "same") | dict.fromkeys(INDEX_NUMBERS, 1)
    columns = by_column([{**row, "job_id": str(number)} for number in range(4)])
    assert columns["job_id"] == ["0", "1", "2", "3"] and columns["gpu_s"] == [1, 1, 1, 1]
    assert columns["status"] == {"values": ["same"], "rows": [0, 0, 0, 0]}
