"""The report's data: counters that add up, text that stays text, rows that go back into a manifest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.report_out import HOSTILE, make_filmed_out, make_out, result
from vace_batch.errors import UsageError
from vace_batch.manifest.builder import build_manifest
from vace_batch.manifest.job import Job, job_json
from vace_batch.manifest.reader import read_manifest
from vace_batch.report.charts import amount, nice_ceiling, ranked, stacked, timeline
from vace_batch.report.data_files import INDEX, INDEX_NUMBERS, PAGE_ROWS, by_column, script
from vace_batch.report.previews import most_doubtful
from vace_batch.report.rows import manifest_row, read_clips
from vace_batch.report.tally import Tally
from vace_batch.report.writer import link, write_report
from vace_batch.storage import files as storage
from vace_batch.video.reader import read_frames


def jobs(count: int) -> list[Job]:
    return [
        Job(job_id=f"clip-{number:04d}", video_uri=f"/media/{number}.mp4", task="removal") for number in range(count)
    ]


def parse(data: bytes) -> tuple[str, int, Any]:
    found = re.fullmatch(rb'vaceBatchData\("(\w+)",(\d+),(".*")\);\n', data)
    assert found is not None, data[:200]
    return found[1].decode(), int(found[2]), json.loads(json.loads(found[3]))


def clips_of(folder: Path) -> list[dict[str, Any]]:
    return [clip for path in sorted(folder.glob("data/clips-*.js")) for clip in parse(path.read_bytes())[2]]


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
    assert storage.list_files("memory://reports/night") == [
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


def test_columns_that_repeat_are_told_once() -> None:
    row = dict.fromkeys(INDEX, "same") | dict.fromkeys(INDEX_NUMBERS, 1)
    columns = by_column([{**row, "job_id": str(number)} for number in range(4)])
    assert columns["job_id"] == ["0", "1", "2", "3"] and columns["gpu_s"] == [1, 1, 1, 1]
    assert columns["status"] == {"values": ["same"], "rows": [0, 0, 0, 0]}


def cell(value: Any) -> str:
    """As the page writes it: only what is not there has no quotes."""
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


def test_pictures_of_numbers() -> None:
    parts = stacked({"done": 3, "failed": 1, "pending": 0})
    assert [(part.start, part.length) for part in parts] == [(0, 75), (75, 25), (100, 0)]
    assert [part.length for part in stacked({"done": 0})] == [0]
    bars = ranked({str(number): float(number) for number in range(12)})
    assert len(bars) == 8 and bars[-1].name == "5 others" and sum(part.value for part in bars) == 66
    columns = timeline([(0, 1), (60, 4)], 60, "clips").columns
    assert [round(column.y + column.height) for column in columns] == [120, 120]
    assert columns[1].height / columns[0].height == 4 and timeline([], 60, "clips").columns == ()
    assert [nice_ceiling(value) for value in (0, 0.3, 1, 3, 7, 1000)] == [1, 0.5, 1, 5, 10, 1000]
    assert (amount(3), amount(180), amount(36_000)) == ("3.0 s", "3.0 min", "10.0 h")


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


def test_results_of_another_schema_version_are_refused(tmp_path: Path) -> None:
    out = make_out(tmp_path / "out", jobs(1), [result(0)])
    clips = tmp_path / "out/results/status=done/clips.parquet"
    pq.write_table(pq.read_table(clips).replace_schema_metadata({}), clips)
    with pytest.raises(UsageError, match=r"results: has no schema version, expected 1; give --refresh"):
        write_report(out)
