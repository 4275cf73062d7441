"""Test infra/README.md: its commands parse, its files exist, and its table equals the command's output."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.infra.manifests import command_faults
from tests.infra.versions import INFRA, ROOT
from vace_batch.geometry import Size
from vace_batch.vace.sizing import needs, rows, table

TEXT = (INFRA / "README.md").read_text()
_BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [*re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S))]
COMMANDS += [line for block in _BLOCKS for line in block.splitlines()]


def ours() -> list[str]:
    pattern = re.compile(r"(?<!namespace )(vace-batch [a-z].*?)(?:\"|$| && )")
    return [found for text in COMMANDS for found in pattern.findall(text)]


def test_each_command_of_ours_is_one() -> None:
    assert len(ours()) >= 15
    assert [fault for command in ours() for fault in command_faults(command)] == []


@pytest.mark.parametrize("wrong", ["vace-batch gc OUT --dryrun", "vace-batch resume OUT", "vace-batch plan"])
def test_a_command_that_is_none_is_found(wrong: str) -> None:
    assert command_faults(wrong)


def test_each_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"infra/[\w./-]*\w", TEXT))
    assert len(named) > 8
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_table_of_costs_is_what_the_command_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "vace_batch.vace.sizing"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == table()
    assert table() in TEXT


def test_what_a_gpu_must_have_is_what_the_command_prints() -> None:
    assert needs() in (ROOT / "README.md").read_text()


def test_costs_follow_share_speed_and_price() -> None:
    def hours(**change: float) -> float:
        return next(row.gpu_hours for row in rows(**change))

    assert hours(share=0.2) == pytest.approx(2 * hours(share=0.1))
    assert hours(tflops=700) == pytest.approx(hours(tflops=350) / 2)
    assert hours(fps=50) == pytest.approx(2 * hours(fps=25))
    small = next(row for row in rows() if row.crop == Size(384, 384))
    # 50 forwards of 88.7 TFLOP (counted by torch on the real configuration), and the VAE
    assert small.window_s == pytest.approx(50 * 88.7 / 350, rel=0.06)


def test_each_symptom_has_a_cause_and_an_action_that_is_a_command() -> None:
    lines = TEXT.partition("## When something is wrong")[2].splitlines()
    rows_of = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows_of) >= 15
    for symptom, cause, action in rows_of:
        assert symptom.strip() and cause.strip() and "`" in action, symptom
