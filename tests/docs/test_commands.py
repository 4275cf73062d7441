"""Run every command of the pages; check only the existence of commands that a test cannot run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import s3fs
import yaml

from tests.docs.console import DOCS, ROOT, commands_of, ours, run
from tests.infra.manifests import command_faults
from tests.support.s3_server import bucket, moto

PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if commands_of(path))
AFTER_THE_TUTORIAL = ["how-to/budget.md", "how-to/python.md", "how-to/reviewers.md", "how-to/weights.md"]


def follow(page: str, folder: Path) -> None:
    """Run the commands of a page in `folder`."""
    for command in commands_of(DOCS / page):
        if command.runs:
            run(command, folder)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the tutorial was run to its end; other pages start there."""
    folder = tmp_path_factory.mktemp("tutorial")
    follow("tutorial.md", folder)
    return folder


def test_the_tutorial_ends_with_the_videos_that_it_names(tutorial: Path) -> None:
    assert {path.name for path in (tutorial / "out" / "videos").iterdir()} == {"cat.mp4", "horse.mp4", "box.mp4"}


def test_my_classes(tutorial: Path) -> None:
    follow("how-to/classes.md", tutorial)


@pytest.mark.slow
@pytest.mark.parametrize("page", AFTER_THE_TUTORIAL)
def test_a_page_that_begins_where_the_tutorial_ended(page: str, tutorial: Path) -> None:
    follow(page, tutorial)


@pytest.mark.slow
def test_my_bucket(tutorial: Path, tmp_path: Path) -> None:
    with moto(tmp_path) as endpoint, bucket(endpoint) as place:
        store = s3fs.S3FileSystem()
        for video in (tutorial / "videos").iterdir():
            store.put(str(video), f"{place}/in/{video.name}")
        follow("how-to/bucket.md", tmp_path)


def test_no_page_is_forgotten() -> None:
    run_here = {page for page in PAGES if any(command.runs for command in commands_of(DOCS / page))}
    assert run_here == {"tutorial.md", "how-to/classes.md", "how-to/bucket.md", *AFTER_THE_TUTORIAL}


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_a_page_is_one(page: str) -> None:
    texts = [command.text for command in commands_of(DOCS / page)]
    assert [fault for text in texts for command in ours(text) for fault in command_faults(command)] == []
    modules = {name for text in texts for name in re.findall(r"python -m ([\w.]+)", text)}
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_each_deployment_that_a_page_names_is_one() -> None:
    known = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    named = set(re.findall(r"vace-batch[\w-]*/([a-z-]+)", (DOCS / "how-to" / "schedule.md").read_text()))
    assert named == {deployment["name"] for deployment in known}


@pytest.mark.slow
def test_each_command_of_prefect_is_one() -> None:
    texts = "\n".join(command.text for page in PAGES for command in commands_of(DOCS / page))
    found = {tuple(words.split()) for words in re.findall(r"^prefect((?: [a-z]+)+)(?= |$)", texts, re.MULTILINE)}
    assert len(found) >= 3
    for words in found:
        asked = subprocess.run([str(Path(sys.executable).with_name("prefect")), *words, "--help"], capture_output=True)
        assert asked.returncode == 0, words


@pytest.mark.parametrize("page", sorted(str(path.relative_to(DOCS)) for path in DOCS.glob("[a-z]*/[a-z]*.md")))
def test_each_file_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"infra/[\w./-]*\w", (DOCS / page).read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_each_command_of_the_readme_is_one() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = ours("\n".join(text for language, text in blocks if not language))
    assert len(commands) >= 6
    assert [fault for command in commands for fault in command_faults(command)] == []
