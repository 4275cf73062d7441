"""Build the site; it loads nothing from other hosts, and its reference matches the program."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import typer

from tests.docs.console import DOCS, ROOT
from vace_batch.cli import running
from vace_batch.cli.app import app
from vace_batch.ledger.results import RESULT_SCHEMA
from vace_batch.options import Options

pytest.importorskip("zensical", reason="pip install 'vace-batch[docs]'")


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_builder", ROOT / ".ci" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(docs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("built") / "site"
    docs.build(folder)
    return folder


def test_no_page_asks_a_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    asked = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^\"' >]*")
    assert {page.name: found for page in pages if (found := asked.findall(page.read_text()))} == {}


def test_the_reference_has_every_command_option_and_setting(docs: ModuleType) -> None:
    commands = docs.command_line()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        part = commands.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        assert [
            option for param in command.params for option in param.opts if option[0] == "-" and option not in part
        ] == []
    assert [name for name in Options.model_fields if f"\n| `{name}`" not in docs.settings()] == []


@pytest.mark.parametrize("wrong", ["nowhere.md", "../tutorial.md#nowhere", "../../vace_batch/nowhere.py"])
def test_a_link_that_leads_nowhere_stops_the_build(
    docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    page = tmp_path / "docs" / "how-to" / "bucket.md"
    page.write_text(f"{page.read_text()}\n[there]({wrong})\n")
    monkeypatch.setattr(docs, "DOCS", tmp_path / "docs")
    with pytest.raises(SystemExit, match="nowhere|anchor"):
        docs.build(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_results_table_has_every_column() -> None:
    part = (
        (DOCS / "reference" / "output.md").read_text().partition("## Columns of the results")[2].partition("\n## ")[0]
    )
    rows = [row.split(" | ")[0] for row in part.splitlines() if row.startswith("| `")]
    assert [word for row in rows for word in re.findall(r"`(\w+)`", row)] == RESULT_SCHEMA.names


def test_every_exit_code_has_a_line() -> None:
    codes = {str(value) for name, value in vars(running).items() if name.startswith("EXIT_")}
    part = (DOCS / "reference" / "output.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (\d+) \|", part, re.MULTILINE)) == codes


def test_every_variable_that_a_run_reads_has_a_line() -> None:
    part = (DOCS / "reference" / "output.md").read_text().partition("## Environment variables")[2]
    read = {
        name
        for folder in ("vace_batch", "flows")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\"(VACE_BATCH_[A-Z_]+)\"", path.read_text())
    }
    assert read == set(re.findall(r"`(VACE_BATCH_\w+)`", part))
