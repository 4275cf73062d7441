"""The budget's decisions, pure; and a graph that follows them, without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.support.media_files import Media, make
from tests.support.records import commit_clip
from vace_batch.batch.batch import open_batch
from vace_batch.batch.budget import Account, Actors, Budget
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import another_attempt
from vace_batch.batch.spending import Spending, open_account
from vace_batch.cluster.events import UnitRan
from vace_batch.cluster.units import Unit
from vace_batch.costs import BudgetSettings, Calibration, Prices, Speed, Used
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.results import write_results
from vace_batch.ledger.summary import summarise
from vace_batch.ledger.usage import read_usage
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import AttemptSettings, Options, QualitySettings
from vace_batch.report.rows import read_clips
from vace_batch.steps.measure import unmeasured
from vace_batch.steps.prepare import prepare

HOUR = 3600.0


class Bounded(Budget):
    """A budget in GPU-seconds, and its account; `spent` and `factor` are of earlier runs."""

    def __init__(self, gpu_s: float, spent: Used | None = None, factor: float | None = None, **actors: int) -> None:
        self.account = Account(spent or Used(), factor)
        super().__init__(BudgetSettings(max_gpu_hours=gpu_s / HOUR), account=self.account, actors=Actors(**actors))

    def add(self, used: Used, predicted: Used | None = None) -> None:
        self.account.add(used, predicted)


def window(gpu_s: float) -> Used:
    return Used(gpu_s=gpu_s)


def test_without_bounds_everything_may_begin() -> None:
    free = Budget()
    assert all(free.may_begin(str(number), window(1e9)) for number in range(99)) and free.look()


def test_what_runs_counts_until_it_ends_and_then_by_what_it_took() -> None:
    one = Bounded(25, gpu=3, max_batch=2, factor=1.0)
    assert one.may_begin("a", window(10)) and one.may_begin("b", window(10))
    assert not one.may_begin("c", window(10)) and not one.is_over, "something still runs that may take less"
    one.add(window(4), window(10))
    one.end("a")
    assert one.may_begin("c", window(10)), "predictions were 2.5 times too high"
    one.add(window(4), window(10))
    one.end("b")
    one.add(window(4), window(10))
    one.end("c")
    assert one.may_begin("d", window(30)), "12 are spent, 30 is expected to be 12"
    one.end("d")
    assert not one.may_begin("e", window(40)) and one.is_over
    assert one.reason is not None and one.reason.startswith(f"--max-gpu-hours {25 / HOUR:g} reached: 12.0 GPU-s spent")
    assert not one.may_begin("f", window(0)) and not one.look(), "over is over"


def test_until_a_window_has_ended_one_an_actor_runs() -> None:
    one = Bounded(1e9, gpu=2, max_batch=4)
    assert [one.may_begin(name, window(1)) for name in "abc"] == [True, True, False] and not one.is_over
    one.add(window(50), window(1))
    one.end("a")
    begun = [one.may_begin(str(number), window(1)) for number in range(20)]
    assert sum(begun) == 2 * 2 * 4 - 1


def test_what_came_to_nothing_and_earlier_runs_count() -> None:
    one = Bounded(20, spent=window(15))
    one.add(window(4))  # a run that was lost
    assert not one.may_begin("a", window(2)) and one.is_over
    assert Bounded(20, spent=window(15)).may_begin("a", window(5))


def test_money_bounds_looking_too() -> None:
    prices = Prices(cpu_hour=3600, currency="EUR")
    account = Account()
    one = Budget(BudgetSettings(max_cost=10), prices, account)
    account.add(Used(cpu_s=9))
    assert one.look()
    account.add(Used(cpu_s=2))
    assert not one.look() and one.reason is not None and "11.00 EUR spent" in one.reason


@pytest.mark.parametrize("seed", range(20))
def test_no_more_is_spent_than_what_ran_was_mispredicted_by(seed: int) -> None:
    """Windows of any cost, all mispredicted by one factor: the bound is passed by at most the first ones' error."""
    rng = Random(seed)
    error = rng.choice([0.3, 1.0, 4.0])
    actors = rng.choice([1, 3])
    one = Bounded(1000, gpu=actors, max_batch=2)
    spent = 0.0
    running: list[tuple[str, Used]] = []
    for number in range(10_000):
        expected = window(rng.uniform(1, 20))
        while not one.may_begin(str(number), expected) and running:
            name, took = running.pop(0)
            spent += took.gpu_s * error
            one.add(took * error, took)
            one.end(name)
        if one.is_over:
            break
        running.append((str(number), expected))
    assert one.is_over and not running
    assert 1000 - 20 * error - 1e-6 <= spent <= 1000 + 1e-6


# --- the graph -------------------------------------------------------------------------------------------------------


def archive(tmp_path: Path, **options: object) -> tuple[Manifest, str, Options]:
    """Three clips of two windows each, which are predicted to take 10 s a window."""
    make(tmp_path / "clip.mp4", Media(num_frames=40))
    boxes = (BoxKey(x=8, y=8, width=16, height=16),)
    job = Job(job_id="", video_uri=str(tmp_path / "clip.mp4"), task="removal", boxes=boxes, background="off")
    jobs = tuple(replace(job, job_id=name, seed=seed) for seed, name in enumerate("abc"))
    rates = Calibration(models={"tiny": Speed(call_s=10, transformer_s=0, vae_s=0)})
    given = Options(calibration=rates, quality={"enabled": False}, **options)  # type: ignore[arg-type]
    return Manifest(jobs=jobs, digest="d", uri=str(tmp_path / "m.parquet")), str(tmp_path / "out"), given


def go(manifest: Manifest, out: str, options: Options) -> list[str]:
    """Run a batch by hand: units end in their order, a window takes 12 s. Returns the kinds of units."""
    batch = open_batch(manifest, out, options)
    account = open_account(out, options)
    spending = Spending(out, options, account)
    graph = ClipGraph(batch.pending, budget=Budget(options.budget, options.prices, account))
    ledger, works = Ledger(out), {work.clip_key: work for work in batch.works}
    ran: list[str] = []

    def end(unit: Unit) -> Iterable[Unit]:
        meta: object = None
        if unit.kind == "prepare":
            meta = prepare(unit.payload, MaskModels())  # type: ignore[arg-type]
        elif unit.kind == "generate":
            meta = 12.0
            ledger.commit(unit.key, {"artifact": "a", "seconds": 12.0, "seed": 1})
        elif unit.kind == "stitch":
            meta = "done"
            commit_clip(out, works[unit.key], {"status": "done", "windows": 2, "seconds": 24.0})
        ran.append(unit.kind)
        spending.add(UnitRan(unit=unit, ok=True, seconds=12, num_bytes=1, meta=meta))
        return graph.on_done(unit, meta)

    units = list(graph.first_units())
    while units:
        units += end(units.pop(0))
    spending.close()
    return ran


def test_a_run_stops_at_its_budget_and_a_larger_one_goes_on_from_there(tmp_path: Path) -> None:
    manifest, out, options = archive(tmp_path, budget=BudgetSettings(max_gpu_hours=40 / HOUR))
    first = go(manifest, out, options)
    assert first.count("generate") == 3 and first.count("stitch") == 1, "36 s are spent, a fourth would make it 48"
    summary = summarise(out)
    assert (summary.done, summary.pending) == (1, 2) and summary.stopped is not None
    left = list(summary.of("pending"))
    assert [(row["job_id"], row["error_code"]) for row in left] == [("b", "budget"), ("c", "budget")]
    assert "36.0 GPU-s spent" in left[0]["reason"]
    write_results(summary)
    shown = {clip.job_id: (clip.status, "".join(clip.reasons)[:15]) for clip in read_clips(out)}
    assert shown == {"a": ("done", ""), "b": ("pending", "budget: --max-g"), "c": ("pending", "budget: --max-g")}
    assert go(manifest, out, options).count("generate") == 0, "the same command finds its budget spent"

    larger = options.model_copy(update={"budget": BudgetSettings(max_gpu_hours=72 / HOUR)})
    second = go(manifest, out, larger)
    assert second.count("generate") == 3 and second.count("stitch") == 2, "nothing is made twice"
    assert read_usage(out).spent.gpu_s == 72
    summary = summarise(out)
    assert (summary.done, summary.pending, summary.stopped) == (3, 0, None)


def test_what_is_made_already_is_stitched_without_a_budget_for_it(tmp_path: Path) -> None:
    manifest, out, options = archive(tmp_path)
    done = go(manifest, out, options)
    assert done.count("generate") == 6 and done.count("stitch") == 3
    for key in Ledger(out).keys("done", "clip"):  # as if the driver had been killed before it stitched
        (tmp_path / "out" / "ledger" / "done" / key.rsplit("-")[-1][:2] / f"{key}.json").unlink()
    nothing = options.model_copy(update={"budget": BudgetSettings(max_gpu_hours=0.0)})
    again = go(manifest, out, nothing)
    assert again.count("generate") == 0 and again.count("stitch") == 3
    assert summarise(out).done == 3


def test_a_bound_in_money_needs_prices(tmp_path: Path) -> None:
    manifest, out, options = archive(tmp_path, budget=BudgetSettings(max_cost=1))
    with pytest.raises(UsageError, match="--max-cost: needs prices"):
        open_batch(manifest, out, options)


@pytest.mark.parametrize("over", [False, True])
def test_no_further_attempt_begins_when_it_is_over(tmp_path: Path, over: bool) -> None:
    manifest, out, options = archive(tmp_path, attempts=AttemptSettings(max_attempts=3))
    options = options.model_copy(update={"quality": QualitySettings()})
    work = open_batch(manifest, out, options).works[0]
    bounds = Bounded(1, spent=window(2 if over else 0))
    assert bounds.look() is not over
    Ledger(out).commit(work.clip_key, {"status": "done", "windows": 1, "seconds": 1.0})
    graph = ClipGraph([work], another=another_attempt, budget=bounds)
    plan = prepare(work, MaskModels())
    [stitch] = graph.on_done(Unit(kind="prepare", key=work.clip_key, pool="cpu", fn="a:b"), plan)
    [measure] = graph.on_done(stitch, "done")
    found = {"unmeasured": None, "checks": ["seam"], "metrics": {"seam": 9.0}}
    following = list(graph.on_done(measure, unmeasured(work, "a test") | found))
    assert [unit.kind for unit in following] == ([] if over else ["prepare"])
    assert graph.status["done"] == over, "it is done, and a later run goes on with its attempts"
