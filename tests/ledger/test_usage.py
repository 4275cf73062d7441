"""The cost of runs: records summed up by step, and the lines that people read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vace_batch.costs import Prices, Used
from vace_batch.ledger.schema import UsageRecord
from vace_batch.ledger.usage import Usage, cost_lines, quantity, read_usage
from vace_batch.storage import files as storage


def write(out: Path, name: str, began_at: str, gpu_s: float, stopped: str | None = None) -> None:
    record: UsageRecord = {
        "began_at": began_at,
        "at": began_at,
        "predicted": {"generate": Used(gpu_s=2 * gpu_s).as_dict()},
        "real": {"generate": Used(gpu_s=gpu_s).as_dict(), "stitch": Used(cpu_s=1.0).as_dict()},
        "repeated": Used(gpu_s=1.0).as_dict(),
        "held": Used(gpu_s=20.0).as_dict(),
        "stopped": stopped,
    }
    storage.publish(f"{out}/ledger/usage/{name}.json", json.dumps(record).encode())


def test_runs_are_summed_and_the_latest_says_why_it_stopped(tmp_path: Path) -> None:
    assert read_usage(str(tmp_path)) == Usage()
    write(tmp_path, "b", "2026-01-01", 3.0, "the budget is spent")
    write(tmp_path, "a", "2026-01-02", 5.0)
    usage = read_usage(str(tmp_path))
    assert usage.real == {"generate": Used(gpu_s=8.0), "stitch": Used(cpu_s=2.0)}
    assert usage.factor == 0.5 and usage.stopped is None
    assert usage.spent == Used(gpu_s=10.0, cpu_s=2.0) and usage.held == Used(gpu_s=40.0)
    write(tmp_path, "c", "2026-01-03", 1.0, "again")
    assert read_usage(str(tmp_path)).stopped == "again"


def test_steps_stand_in_their_order_and_ratios_need_a_prediction(tmp_path: Path) -> None:
    write(tmp_path, "a", "2026-01-01", 3.0)
    cost = read_usage(str(tmp_path)).as_dict(Prices())
    assert list(cost["steps"]) == ["generate", "stitch"]
    assert cost["ratio"] == {"gpu_s": 0.5, "cpu_s": None, "num_bytes": None} and cost["real"]["cost"] is None
    assert Usage().factor is None


def test_lines_say_only_what_is_known(tmp_path: Path) -> None:
    assert list(cost_lines(Usage().as_dict(Prices()) | {"further_gpu_s": 0.0})) == []
    write(tmp_path, "a", "2026-01-01", 3.0)
    lines = list(cost_lines(read_usage(str(tmp_path)).as_dict(Prices()) | {"further_gpu_s": 0.0}))
    assert lines == [
        "GPU       predicted 6.0 s, real 3.0 s (0.50 of it), and 1.0 s lost or failed",
        "CPU       predicted 0.0 core-s, real 1.0 core-s",
        "storage   predicted 0.0 MB, real 0.0 MB",
        "          GPU actors stood ready for 20.0 s, 20% of it at work",
    ]


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [(1234.56, "gpu_s", "1,234.6 s"), (2.0, "cpu_s", "2.0 core-s"), (2.5e6, "num_bytes", "2.5 MB")],
)
def test_quantities_have_their_unit(value: float, name: str, text: str) -> None:
    assert quantity(value, name) == text
