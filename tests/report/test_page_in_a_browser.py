"""The report's page in a real browser, from a file: clicks, keys, decisions, hostile text, accessibility."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_out import HOSTILE, make_filmed_out, make_out, result
from vace_batch.manifest.builder import build_manifest
from vace_batch.manifest.job import Job
from vace_batch.manifest.reader import read_manifest
from vace_batch.report.writer import write_report
from vace_batch.storage import files as storage

pytestmark = pytest.mark.browser

COUNT = 2_345
ATTEMPTS = [
    {"remedy": "first", "verdict": "review", "score": 1.4, "gpu_s": 2.0, "reasons": ["the border of the fill shows"]}
    | {"metrics": {"seam": 3.1}, "settings": {"dilate": None, "preset": "removal", "seed": 1}, "error": None},
    {"remedy": "dilate", "verdict": "pass", "score": 0.0, "gpu_s": 1.5, "reasons": [], "metrics": {"seam": 0.9}}
    | {"settings": {"dilate": "15 px", "preset": "removal", "seed": 2}, "error": None},
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    (folder / "a.mp4").touch()
    texts = dict(enumerate(HOSTILE, start=1))
    jobs = [
        Job(
            job_id=texts.get(number, f"clip-{number:04d}"),
            video_uri=str(folder / "a.mp4"),
            task="removal",
            targets=("person",),
            prompt=texts.get(number, ""),
        )
        for number in range(COUNT)
    ]
    rows = [result(number, **({"reasons": [texts[number]]} if number in texts else {})) for number in range(COUNT)]
    rows[100]["attempts"] = json.dumps({"chosen": 1, "attempts": ATTEMPTS})
    out = make_out(folder / "out", jobs, rows)
    steps = {"generate": {"gpu_s": 9.0}, "stitch": {"cpu_s": 7.0, "num_bytes": 1e6}}
    usage = {"began_at": "2026", "predicted": steps, "real": steps, "repeated": {"gpu_s": 2.0}, "held": {"gpu_s": 99.0}}
    storage.publish(f"{out}/ledger/usage/a.json", json.dumps(usage).encode())
    return write_report(out).uri


@pytest.fixture()
def page(browser: Any, report: str) -> Iterator[Any]:
    with _opened(browser, report) as page:
        yield page


class _opened:
    """Open a page with the report; at the end the page must have no errors."""

    def __init__(self, browser: Any, uri: str, **options: Any) -> None:
        self._context = browser.new_context(viewport={"width": 1300, "height": 900}, **options)
        self._uri, self._faults = uri, list[str]()

    def __enter__(self) -> Any:
        page = self._context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: self._faults.append(str(error)))
        page.on("console", lambda said: self._faults.append(said.text) if _is_fault(said) else None)
        page.goto("file://" + self._uri)
        ready(page)
        return page

    def __exit__(self, *_: object) -> None:
        self._context.close()
        assert self._faults == []


def _is_fault(said: Any) -> bool:
    """Count errors of the page's policy as faults, but not a missing clip or the style sheet that axe loads."""
    return said.type == "error" and not any(text in said.text for text in ("Failed to load resource", "connect-src"))


def ready(page: Any) -> None:
    page.wait_for_selector("html[data-ready]", state="attached")


def found(page: Any, text: str) -> None:
    page.wait_for_function("text => document.getElementById('found').textContent === text", arg=text)


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.locator(f"#rows tr td:nth-child({number})").all_inner_texts()
    return [text.strip() for text in texts]


def test_search_looks_at_every_page(page: Any) -> None:
    found(page, "2,345 clips")
    page.fill("#search", "CLIP-2301")
    found(page, "1 of 2,345 clips")
    assert column(page, 1) == ["clip-2301"]
    page.fill("#search", "clip-00 DAMAGED_video")
    found(page, "7 of 2,345 clips")
    assert column(page, 1) == [f"clip-{number:04d}" for number in range(17, 100, 12)]
    page.click("#clear")
    found(page, "2,345 clips")


def test_sort_filter_and_pages(page: Any) -> None:
    page.click("th[data-sort=gpu_s] button")
    assert page.get_attribute("th[data-sort=gpu_s]", "aria-sort") == "descending"
    seconds = [float(text) for text in column(page, 8)]
    page.click("#page-next")
    seconds += [float(text) for text in column(page, 8)]
    assert seconds == sorted(seconds, reverse=True) and len(seconds) == 100 and seconds[0] == 10.5
    page.click("th[data-sort=gpu_s] button")
    assert page.get_attribute("th[data-sort=gpu_s]", "aria-sort") == "ascending" and column(page, 8)[0] == "0.0"
    page.click("th[data-sort=job_id] button")
    assert page.get_attribute("th[data-sort=gpu_s]", "aria-sort") is None
    page.select_option("#filter-status", "failed")
    expected = sum(result(number)["status"] == "failed" for number in range(COUNT))
    found(page, f"{expected} of 2,345 clips")
    assert set(column(page, 2)) == {"failed"} and len(column(page, 2)) == 50
    page.click("#page-last")
    assert len(column(page, 2)) == expected % 50 and page.is_disabled("#page-next")
    page.select_option("#filter-verdict", "pass")
    found(page, "0 of 2,345 clips")
    page.click("#clear")
    page.click("text=review >> nth=0")  # the chart's legend filters
    page.goto(page.url.split("#")[0] + "#clips?verdict=fail")
    assert set(column(page, 3)) == {"fail"}


def test_checks_and_attempts_filter(page: Any) -> None:
    options = page.locator("#filter-checks option").all_inner_texts()
    assert options == ["all", "blur", "seam", "none"]
    page.select_option("#filter-checks", "blur")
    fails = sum(result(number)["verdict"] == "fail" for number in range(COUNT))
    found(page, f"{fails} of 2,345 clips")
    assert set(column(page, 4)) == {"seam, blur"} and set(column(page, 3)) == {"fail"}
    page.select_option("#filter-checks", "seam")
    both = sum(result(number)["verdict"] in ("fail", "review") for number in range(COUNT))
    found(page, f"{both} of 2,345 clips")
    page.select_option("#filter-checks", "none")
    found(page, f"{COUNT - both:,} of 2,345 clips")
    page.click("#clear")
    page.select_option("#filter-tried", "again")
    found(page, "1 of 2,345 clips")
    page.click("#rows a")
    page.wait_for_selector("#view-clip:not([hidden])")
    table = page.locator("#clip-text table").first
    assert [text.strip() for text in table.locator("th").all_inner_texts()][:4] == [
        "Attempt",
        "dilate",
        "seed",
        "Verdict",
    ]
    assert [text.strip() for text in table.locator("tbody tr").nth(1).locator("td").all_inner_texts()] == [
        "dilate", "15 px", "2", "pass", "0", "1.5", "", "kept",
    ]  # fmt: skip


def test_keys_alone_do_it(page: Any) -> None:
    page.keyboard.press("/")
    page.wait_for_function("() => document.activeElement.id === 'search'")
    page.keyboard.type("clip-00j")  # letters are text there
    found(page, "0 of 2,345 clips")
    page.fill("#search", "clip-00")
    page.wait_for_function("() => document.querySelector('#rows a')?.textContent === 'clip-0000'")
    page.keyboard.press("Escape")
    for key in ("j", "j", "k", "j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#view-clip:not([hidden])")
    second = page.inner_text("#h-clip")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.wait_for_function("before => document.getElementById('h-clip').textContent !== before", arg=second)
    page.keyboard.press("r")
    page.keyboard.press("n")
    page.keyboard.type("rays are left")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("#view-summary:not([hidden])")
    assert page.evaluate("document.activeElement.tagName") == "A"
    assert page.inner_text("#review-count") == "2"
    assert page.locator("#rows .badge.is-accept").count() == page.locator("#rows .badge.is-redo").count() == 1
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.locator("#found").click()
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 0


def decide(page: Any, job_id: str, decision: str, note: str = "", redo_with: str | None = None) -> None:
    page.evaluate("id => { location.hash = '#clip/' + encodeURIComponent(id); }", job_id)
    page.wait_for_function("id => document.getElementById('h-clip').textContent === id", arg=job_id)
    page.check(f"input[name=decision][value={decision}]")
    page.fill("#note", note)
    if redo_with:
        page.select_option("#redo-with", redo_with)


def download(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as event:
        page.click(button)
    target = folder / event.value.suggested_filename
    event.value.save_as(target)
    return target


def test_decisions_outlive_the_page_and_go_back_in_as_a_manifest(page: Any, tmp_path: Path) -> None:
    hostile = HOSTILE[0]
    decide(page, "clip-1500", "redo", 'a "note",\nof two lines')
    decide(page, hostile, "redo", redo_with="wider")
    decide(page, "clip-0099", "accept", "=1+1")
    page.reload()
    ready(page)
    page.click("#nav-review")
    page.wait_for_selector("#review-text:has-text('1 accepted, 2 to redo')")  # the page is drawn after the click
    build_manifest(str(download(page, "#export-manifest", tmp_path)), str(tmp_path / "redo.parquet"))
    first, second = read_manifest(str(tmp_path / "redo.parquet")).jobs
    assert (first.job_id, first.seed, first.targets) == ("clip-1500", 1, ("person",))
    assert second.job_id == second.prompt == hostile and second.dilate is not None and second.dilate.px == 15
    told = json.loads(download(page, "#export-json", tmp_path).read_text())
    assert told["decisions"]["clip-1500"]["note"] == 'a "note",\nof two lines'
    assert '"\'=1+1"' in download(page, "#export-csv", tmp_path).read_text()
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#forget")
    assert page.inner_text("#review-count") == "0"
    page.set_input_files("#import", tmp_path / "decisions.json")
    page.wait_for_function("() => document.getElementById('review-count').textContent === '3'")


def test_hostile_text_is_text(page: Any) -> None:
    for text in HOSTILE:
        page.evaluate("id => { location.hash = '#clip/' + encodeURIComponent(id); }", text)
        page.wait_for_function("id => document.getElementById('h-clip').textContent === id", arg=text)
        assert page.locator("main img, main script").count() == 0
    page.click("#nav-review")
    assert page.evaluate("window.hacked") is None and page.evaluate("({}).polluted") is None


def test_before_and_after_play_together(browser: Any, tmp_path: Path) -> None:
    uri = write_report(make_filmed_out(tmp_path / "film"), previews=1).uri
    with _opened(browser, uri) as page:
        page.click("text=square >> nth=0")
        # `every` holds of no video at all, which is so until the clip's page is drawn.
        page.wait_for_function("() => document.querySelectorAll('video').length === 2")
        page.wait_for_function("() => [...document.querySelectorAll('video')].every(one => one.readyState >= 2)")
        for _ in range(5):
            page.keyboard.press(".")
        page.wait_for_function(
            "() => [...document.querySelectorAll('video')].every(one => Math.abs(one.currentTime - 0.5) < 0.01)"
        )
        page.keyboard.press("m")
        page.wait_for_function("() => document.querySelector('#pane-before video')?.src.includes('-mask.mp4')")
        page.wait_for_function("() => document.querySelector('#pane-before video')?.readyState >= 2")
        page.keyboard.press(" ")
        page.wait_for_function("() => [...document.querySelectorAll('video')].every(one => one.currentTime > 1)")
        page.keyboard.press("s")
        page.locator("#wipe").fill("30")
        assert (
            page.evaluate("document.querySelector('#pane-after .picture').style.clipPath") == "inset(0px 0px 0px 30%)"
        )


def test_posters_stand_in_where_a_video_cannot_be_played(browser: Any, tmp_path: Path) -> None:
    uri = write_report(make_filmed_out(tmp_path / "film"), previews=1).uri
    for path in Path(uri).parent.rglob("*.mp4"):
        path.write_bytes(b"no video")
    with _opened(browser, uri) as page:
        page.click("text=square >> nth=0")
        page.wait_for_function("() => document.querySelectorAll('.picture img').length === 2")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.picture img')].every(one => one.naturalWidth === 160)"
        )


def test_dark_and_print(browser: Any, report: str) -> None:
    with _opened(browser, report, color_scheme="dark") as page:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, background[4:-1].split(","))) < 40
        page.emulate_media(media="print", color_scheme="light")
        assert not page.is_visible("#filters") and page.is_visible("#table")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Any, report: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with _opened(browser, report, color_scheme=scheme) as page:
        decide(page, "clip-0044", "redo", "a note")
        for view in ("#summary", "#clip/clip-0044", "#clip/clip-0100", "#review"):
            page.evaluate("hash => { location.hash = hash; }", view)
            page.wait_for_selector(f"#view-{view[1:].split('/')[0]}:not([hidden])")
            found = axe.run(page)
            assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []
