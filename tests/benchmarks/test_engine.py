"""Run the code of the GPU benchmark, small and on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine.py"


@pytest.mark.slow
def test_the_table_of_a_gpu_is_printed_and_written(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--rehearse", "--out", tmp_path / "gpu"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["dtype"] == "bfloat16" and found["matmul"] == "256^3" and found["matmul_tflops"] > 0
    one, four = found["rows"]
    assert (one["window"], four["window"]) == ("small, 1 x 32x32x5", "small, 4 x 32x32x5")
    for row in (one, four):
        assert row["stock_s"] > 0 and row["ours_s"] > 0 and row["note"] == ""
        assert abs(row["ratio"] - row["stock_s"] / row["ours_s"]) < 0.05 * row["ratio"]
        assert 0 < row["tflops"] and 0 < row["share_of_matmul"] < 1
    table = (tmp_path / "gpu.md").read_text()
    assert table in ran.stdout and table.count("\n| ") == 4 and "small, 4 x 32x32x5" in table


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_command_says_what_to_do() -> None:
    ran = subprocess.run([sys.executable, SCRIPT, "--device", "cuda"], capture_output=True, text=True)
    assert ran.returncode == 1 and "give the same command where there is one" in ran.stderr
