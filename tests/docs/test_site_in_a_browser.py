"""Open the site from a file in a headless Chromium: no request to a host, search works, both themes are legible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_site import docs, site  # noqa: F401

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_from_a_file(browser: Any, site: Path, scheme: str) -> None:  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    page, faults = browser.new_page(color_scheme=scheme), list[str]()
    page.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else faults.append(sent.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    for name in ("index.html", "tutorial.html", "troubleshooting.html", "reference/settings.html"):
        page.goto(f"file://{site / name}")
        page.locator("h1").wait_for()
        body = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(body[:3]) > 380) == (scheme == "light")
        found = Axe().run(page, context="article", options={"runOnly": ["wcag2a", "wcag2aa"]})
        assert found.violations_count == 0, found.generate_report()
    page.close()
    assert faults == []


def test_search_finds_a_word_of_a_table(browser: Any, site: Path) -> None:  # noqa: F811
    page = browser.new_page()
    page.goto(f"file://{site / 'index.html'}")
    page.locator(".md-search__button").click()
    page.get_by_role("combobox", name="Search").fill("mask_too_dark")
    page.get_by_role("option", name="The mask").wait_for()
    page.close()
