"""The written report: its files, links, cost and filters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.report_out import clips_of, jobs, make_out, parse, result
from vace_batch.report.data_files import PAGE_ROWS
from vace_batch.report.writer import link, write_report
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files


@pytest.mark.parametrize(
    ("uri", "to", "expected"),
    [
        ("/m/a b/x#1?.mp4", "/m/out/report", "../../a%20b/x%231%3F.mp4"),
        ("file:///m/x.mp4", "/m/out/report", "../../x.mp4"),
        ("s3://one/videos/x.mp4", "s3://one/out/report", "../../videos/x.mp4"),
        ("s3://one/x.mp4", "s3://two/report", None),
        ("/m/x.mp4", "s3://one/report", None),
        ("https://host/x.mp4", "/m/report", "https://host/x.mp4"),
        ("https://user:pw@host/x.mp4", "/m/report", None),
        ('https://host/"><script>.mp4', "/m/report", "https://host/%22%3E%3Cscript%3E.mp4"),
        ("", "/m/report", None),
    ],
)
def test_links_lead_only_where_a_browser_can_follow(uri: str, to: str, expected: str | None) -> None:
    assert link(uri, to) == expected


def test_data_comes_by_pages_and_a_shorter_report_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    out, to = tmp_path / "out", tmp_path / "page"
    count = PAGE_ROWS + 3
    make_out(out, jobs(count), [result(number) for number in range(count)])
    written = write_report(str(out), str(to))
    assert (written.clips, written.files) == (count, 3)
    assert [clip["number"] for clip in clips_of(to)] == list(range(count))
    (to / "data/mine.js").touch()
    make_out(out, jobs(2), [result(0), result(1)])
    write_report(str(out), str(to))
    names = sorted(path.name for path in (to / "data").iterdir())
    assert names == ["clips-0000.js", "index-0000.js", "meta.js", "mine.js"]


def test_an_object_store_takes_the_report(tmp_path: Path) -> None:
    out = make_out(tmp_path / "out", jobs(3), [result(number) for number in range(3)])
    written = write_report(out, "memory://reports/night")
    assert written.uri == "memory://reports/night/index.html"
    assert list_files("memory://reports/night") == [
        *("data/clips-0000.js", "data/index-0000.js", "data/meta.js"),
        *("index.html", "report.css", "report.js"),
    ]


def test_predicted_stands_beside_real_and_checks_can_be_filtered(tmp_path: Path) -> None:
    attempts = {
        "chosen": 1,
        "attempts": [{"remedy": "first", "settings": {"seed": 1}}, {"remedy": "<b>", "gpu_s": 2.5, "verdict": "pass"}],
    }
    rows = [result(4), result(3, predicted_gpu_s=4.5), result(0, attempts=json.dumps(attempts)), None]
    out = make_out(tmp_path / "out", jobs(4), rows)
    write_report(out)
    page = tmp_path / "out/report/index.html"
    assert "Predicted and real cost" not in page.read_text(), "no run told what it used"
    used = {"gpu_s": 8.0, "cpu_s": 0.0, "num_bytes": 5e6}
    body = {
        "predicted": {"generate": {**used, "gpu_s": 10.0}},
        "real": {"generate": used},
        "repeated": used,
        "held": used,
    }
    body |= {"began_at": "2026-11-23", "stopped": "--max-cost 1 <i>"}
    storage.publish(f"{out}/ledger/usage/a.json", json.dumps(body).encode())
    run = storage.read_json(f"{out}/run.json")
    run["options"] = {"prices": {"gpu_hour": 3600, "currency": "<b>EUR"}}
    storage.publish(f"{out}/run.json", json.dumps(run).encode())
    write_report(out)
    text = page.read_text()
    assert re.search(r"GPU</td><td[^>]*>10\.0 s</td><td[^>]*>8\.0 s</td><td[^>]*>0\.80</td><td[^>]*>8\.0 s", text)
    assert "let no further window begin: --max-cost 1 &lt;i&gt;" in text
    assert "8.00 &lt;b&gt;EUR" in text and "<b>EUR" not in text and "on demand" in text
    _, _, index = parse((tmp_path / "out/report/data/index-0000.js").read_bytes())
    assert index["checks"] == ["seam", "seam blur", "", ""] and index["attempts"] == [1, 1, 2, 0]
    told = clips_of(tmp_path / "out/report")
    assert re.search(r"&lt;b&gt;</td><td[^>]*>1</td><td[^>]*>1</td><td[^>]*>1</td><td[^>]*>2\.5 s", text)
    assert told[1]["predicted_gpu_s"] == 4.5 and told[2]["attempts"] == attempts
