"""Test resources, rates, prices and budgets with sums that can be checked by hand."""

from __future__ import annotations

import pytest

from vace_batch.cli.parsing import parse_prices, read_calibration
from vace_batch.costs import BudgetSettings, Calibration, Prices, Rate, Speed, Used, total
from vace_batch.errors import UsageError

HOUR = Used(gpu_s=3600, cpu_s=7200, num_bytes=5e9)


def test_used_adds_and_multiplies() -> None:
    assert total([HOUR, HOUR * 0.5]) == Used(gpu_s=5400, cpu_s=10800, num_bytes=7.5e9)
    assert total([]) == Used()


def test_rates_and_speeds_are_sums() -> None:
    assert Rate(frame=0.5, mpx=2.0).seconds(10, 0.25) == pytest.approx(10 * (0.5 + 0.5))
    assert Speed(call_s=1, transformer_s=0.5, vae_s=2).seconds(4e12, 3e12) == pytest.approx(1 + 2 + 6)
    assert Speed.sustained(200).seconds(300e12, 100e12) == pytest.approx(2)


def test_money_is_by_market_and_a_missing_spot_price_is_that_on_demand() -> None:
    prices = Prices(gpu_hour=3, gpu_hour_spot=1, cpu_hour=0.05, gb_month=0.02, months=2)
    assert prices.money(HOUR) == pytest.approx(3 + 0.1 + 0.2)
    assert prices.money(HOUR, "spot") == pytest.approx(1 + 0.1 + 0.2)
    assert prices.model_copy(update={"market": "spot"}).money(HOUR) == pytest.approx(1.3)
    assert prices.both(HOUR) == {"on_demand": 3.3, "spot": 1.3}
    assert Prices(gpu_hour=3).both(HOUR) == {"on_demand": 3.0}


def test_without_prices_there_is_no_money() -> None:
    assert Prices().money(HOUR) is None and Prices().both(HOUR) is None
    assert Prices(gpu_hour=0).money(HOUR) == 0  # a GPU of one's own


def test_a_budget_says_which_bound_is_exceeded() -> None:
    prices = Prices(gpu_hour=3)
    assert BudgetSettings().exceeded(HOUR, prices) is None
    assert BudgetSettings(max_gpu_hours=1).exceeded(HOUR, prices) is None  # to the second
    assert BudgetSettings(max_gpu_hours=0.999).exceeded(HOUR, prices) == "--max-gpu-hours 0.999"
    assert BudgetSettings(max_cost=2.99).exceeded(HOUR, prices) == "--max-cost 2.99"
    assert BudgetSettings(max_cost=3).exceeded(HOUR, prices) is None


def test_what_the_command_line_says_wrongly_is_named(tmp_path: object) -> None:
    assert parse_prices(["gpu_hour=2.5", "currency=EUR", "market=spot"]).gpu_hour == 2.5
    for wrong in ("gpu=2", "gpu_hour=-1", "market=cheap", "gpu_hour"):
        with pytest.raises(UsageError, match="--price"):
            parse_prices([wrong])
    with pytest.raises(UsageError, match="cannot be read"):
        read_calibration(f"{tmp_path}/none.json")


def test_a_calibration_is_read_as_it_was_written(tmp_path: object) -> None:
    path = f"{tmp_path}/calibration.json"
    found = Calibration(machine="m", models={"tiny": Speed(transformer_s=1, vae_s=2)})
    with open(path, "w") as file:
        file.write(found.model_dump_json())
    assert read_calibration(path) == found
    assert found.speed("tiny").vae_s == 2 and found.speed("other") == Calibration().other
    with open(path, "w") as file:
        file.write('{"machine": 3, "what": 1}')
    with pytest.raises(UsageError, match="expected a file of `doctor --calibrate`"):
        read_calibration(path)
