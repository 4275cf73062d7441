"""Importing the command line, its help and the public names' light half load no heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "diffusers", "transformers", "cv2", "av")
COMMANDS = ("", "run ", "plan ", "status ", "retry ", "masks ", "train ", "doctor ", "report ", "explain ")


def loaded_by(code: str) -> set[str]:
    """Heavy libraries in `sys.modules` after `code`, in a fresh interpreter."""
    script = f"{code}\nimport sys; print('LOADED', *({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import vace_batch",
        "from vace_batch import Options, read_manifest; Options()",
        "import vace_batch.cli.app",
        "import flows.hours",
    ],
)
def test_an_import_is_light(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_help_of_every_command_is_light() -> None:
    code = f"""
from vace_batch.cli.app import app
for words in {COMMANDS!r}:
    try:
        app([*words.split(), "--help"], prog_name="vace-batch")
    except SystemExit as done:
        assert done.code == 0
"""
    assert loaded_by(code) == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert loaded_by("import cv2") == {"cv2"}
