"""The resources of runs beside predicted ones: counted as steps end, kept in OUT, summed over runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.records import check_records
from vace_batch.batch.spending import Spending
from vace_batch.cluster.events import ActorDied, ActorReady, UnitRan
from vace_batch.cluster.units import Unit
from vace_batch.costs import Prices, Used
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.ledger.summary import Summary, summarise
from vace_batch.ledger.usage import cost_lines, read_usage
from vace_batch.options import EngineSettings, Options

STITCH = Unit(kind="stitch", key="a", pool="cpu", fn="a:b", expected=Used(cpu_s=2, num_bytes=100))
WINDOW = Unit(kind="generate", key="a", pool="gpu", fn="a:b", expected=Used(gpu_s=10, num_bytes=1000))
BUILD = Unit(kind="build", key="a", pool="cpu", fn="a:b", leaves_bytes=5, expected=Used(cpu_s=1))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def spending(out: Path, clock: Clock | None = None, **engine: int) -> Spending:
    return Spending(str(out), Options(engine=EngineSettings(**engine)), clock=clock or Clock())  # type: ignore[arg-type]


def test_steps_are_counted_when_they_end_and_runs_add_up(tmp_path: Path) -> None:
    for _ in range(2):
        run = spending(tmp_path)
        run.add(UnitRan(unit=BUILD, ok=True, seconds=3, cpu_s=1.5))
        run.add(UnitRan(unit=WINDOW, ok=True, seconds=9, cpu_s=9, num_bytes=1500, meta=8.0))
        run.add(UnitRan(unit=STITCH, ok=True, seconds=3, cpu_s=2.5, num_bytes=50))
        run.close()
    found = read_usage(str(tmp_path))
    assert found.real["generate"] == Used(gpu_s=16, num_bytes=3000) and found.real["build"] == Used(cpu_s=3)
    told = found.as_dict(Prices(gpu_hour=3600))
    assert told["ratio"] == {
        "gpu_s": 0.8,
        "cpu_s": pytest.approx(8 / 6, abs=1e-3),
        "num_bytes": pytest.approx(3100 / 2200, abs=1e-3),
    }
    assert (told["predicted"]["cost"], told["real"]["cost"]) == (20, 16)
    assert told["steps"]["stitch"] == {
        "predicted": {"gpu_s": 0, "cpu_s": 4, "num_bytes": 200},
        "real": {"gpu_s": 0, "cpu_s": 5, "num_bytes": 100},
    }


def test_what_the_ledger_had_is_not_predicted_again(tmp_path: Path) -> None:
    run = spending(tmp_path)
    run.add(UnitRan(unit=STITCH, ok=True, seconds=0.01, cpu_s=0.01))  # found its record, wrote nothing
    assert run.predicted == {} and run.real["stitch"].cpu_s == 0.01


def test_runs_that_came_to_nothing_are_told_apart(tmp_path: Path) -> None:
    run = spending(tmp_path, devices=2)
    run.add(UnitRan(unit=WINDOW, ok=False, seconds=4))  # its process died
    run.add(UnitRan(unit=WINDOW, ok=True, seconds=9, num_bytes=1, meta=8.0))
    run.add(UnitRan(unit=STITCH, ok=False, seconds=2, cpu_s=1.5))
    run.close()
    found = read_usage(str(tmp_path))
    assert found.repeated == Used(gpu_s=8, cpu_s=1.5) and found.real["generate"].gpu_s == 16
    assert found.spent == Used(gpu_s=24, cpu_s=1.5, num_bytes=1)
    assert check_records(tmp_path) == {"UsageRecord"}
    lines = "\n".join(cost_lines(found.as_dict(Prices(gpu_hour=3600, currency="EUR")) | {"further_gpu_s": 3.0}))
    assert "predicted 10.0 s, real 16.0 s (1.60 of it), and 8.0 s lost or failed" in lines
    assert "3.0 s of the GPU's time went into further attempts" in lines
    assert "predicted 10.00 EUR, real 16.00 EUR on demand, and 8.00 EUR for nothing" in lines


def test_without_a_gpu_the_core_s_processor_time_counts(tmp_path: Path) -> None:
    ran = UnitRan(unit=WINDOW, ok=True, seconds=50, cpu_s=9, num_bytes=1, meta=45.0)  # others used the machine, too
    for has_gpu, expected in ((True, 45.0), (False, 9.0)):
        run = Spending(str(tmp_path), Options(), has_gpu=has_gpu)
        run.add(ran)
        assert run.real["generate"].gpu_s == expected


def test_actors_that_stand_are_counted_until_they_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    run = spending(tmp_path, clock, devices=2)
    run.add(ActorReady(pool="gpu", actor_id=1, seconds=5))
    run.add(ActorReady(pool="cpu", actor_id=2, seconds=0))
    clock.now += 2
    run.add(ActorDied(pool="gpu", actor_id=1, cause="process", detail="", unit_ids=()))
    clock.now += 1
    run.close()
    assert read_usage(str(tmp_path)).held == Used(gpu_s=14, cpu_s=3)
    later = Spending(str(tmp_path), Options(), clock=clock)  # another shard, with the same actors
    later.add_standing({2: "cpu"})
    clock.now += 4
    later.close()
    assert read_usage(str(tmp_path)).held == Used(gpu_s=14, cpu_s=7)


def test_it_is_told_while_the_run_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    run = spending(tmp_path, clock)
    run.add(UnitRan(unit=STITCH, ok=True, seconds=3, cpu_s=2.5, num_bytes=50))
    assert read_usage(str(tmp_path)).real == {}
    clock.now += 11
    run.add(UnitRan(unit=BUILD, ok=True, seconds=3, cpu_s=1.5))
    assert set(read_usage(str(tmp_path)).real) == {"stitch", "build"}


def test_the_summary_tells_it_and_nothing_where_nothing_was_used(tmp_path: Path) -> None:
    out = str(tmp_path)
    job = PlannedJob(job_id="a", clip_key="clip-a", prep_key="prep-a", output="videos/a.mp4", row="{}")
    options = Options(prices=Prices(gpu_hour=3600, market="spot", gpu_hour_spot=36))
    write_plan(out, [job], {"manifest": "m", "options": options.model_dump()})
    assert list(cost_lines(summarise(out).cost)) == []
    run = spending(tmp_path)
    run.add(UnitRan(unit=WINDOW, ok=True, seconds=9, num_bytes=1, meta=8.0))
    run.close()
    summary: Summary = summarise(out, shown_only=True)
    told = json.loads("".join(summary.as_json()))["cost"]
    assert told["real"]["gpu_s"] == 8 and told["real"]["cost"] == pytest.approx(0.08) and told["market"] == "spot"
