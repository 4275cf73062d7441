"""Sum up the real and predicted cost of all runs on an output folder.

    OUT/ledger/usage/<run>.json     one a run, written again and again while the run goes on

Predicted and real amounts are counted when a step ends, so both are of the same work whenever a run stops. The last
seconds of a driver that was killed are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vace_batch.costs import Prices, Used, total
from vace_batch.ledger.schema import Amounts, UsageRecord
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files

USAGE = ("ledger", "usage")
_AMOUNTS = ("gpu_s", "cpu_s", "num_bytes")
_STEPS = ("prepare", "build", "generate", "stitch", "measure")
_RESOURCES = {"gpu_s": "GPU", "cpu_s": "CPU", "num_bytes": "storage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sums over runs. `predicted` and `real` are by step; `repeated` is work that was lost with a machine, failed or
    was stopped; `held` is the time in which actors stood ready, waiting included; `stopped` is why the latest run's
    budget let no further window begin, if it did."""

    predicted: Mapping[str, Used] = field(default_factory=dict)
    real: Mapping[str, Used] = field(default_factory=dict)
    repeated: Used = Used()
    held: Used = Used()
    stopped: str | None = None

    @property
    def factor(self) -> float | None:
        """Real over predicted GPU-seconds of windows; None before the first window."""
        real = self.real.get("generate", Used()).gpu_s
        predicted = self.predicted.get("generate", Used()).gpu_s
        return real / predicted if real and predicted else None

    @property
    def spent(self) -> Used:
        """Everything that the runs used, repeated work included."""
        return total(self.real.values()) + self.repeated

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """Make the `cost` of a summary: predicted, real and their ratio, in all and by step."""
        predicted = total(self.predicted.values())
        real = total(self.real.values())
        steps = sorted(self.real, key=lambda name: _STEPS.index(name) if name in _STEPS else len(_STEPS))
        return {
            "predicted": _with_cost(predicted, prices),
            "real": _with_cost(real, prices),
            "ratio": {name: _ratio(getattr(real, name), getattr(predicted, name)) for name in _AMOUNTS},
            "repeated": _with_cost(self.repeated, prices),
            "held": {"gpu_s": round(self.held.gpu_s, 3), "cpu_s": round(self.held.cpu_s, 3)},
            "steps": {
                name: {"predicted": self.predicted.get(name, Used()).as_dict(), "real": self.real[name].as_dict()}
                for name in steps
            },
            "currency": prices.currency,
            "market": prices.market,
        }


def _with_cost(used: Used, prices: Prices) -> dict[str, float | None]:
    money = prices.money(used)
    return {**used.as_dict(), "cost": None if money is None else round(money, 6)}


def _ratio(real: float, predicted: float) -> float | None:
    return round(real / predicted, 3) if predicted else None


def read_usage(out: str) -> Usage:
    """Sum up all runs on `out`."""
    folder = storage.join(out, *USAGE)
    uris = [storage.join(folder, name) for name in sorted(list_files(folder)) if name.endswith(".json")]
    records: list[UsageRecord] = [storage.read_json(uri) for uri in uris]
    return Usage(
        predicted=_by_step([record["predicted"] for record in records]),
        real=_by_step([record["real"] for record in records]),
        repeated=total(Used(**record["repeated"]) for record in records),
        held=total(Used(**record["held"]) for record in records),
        stopped=max(records, key=lambda record: record["began_at"]).get("stopped") if records else None,
    )


def _by_step(parts: Iterable[Mapping[str, Amounts]]) -> dict[str, Used]:
    sums: dict[str, Used] = {}
    for part in parts:
        for name, used in part.items():
            sums[name] = sums.get(name, Used()) + Used(**used)
    return sums


def cost_lines(cost: Mapping[str, Any]) -> Iterator[str]:
    """Write predicted against real amounts, one line a resource; nothing where nothing was used."""
    real = cost["real"]
    repeated = cost["repeated"]
    if not any(real[name] for name in _AMOUNTS):
        return
    for name in _AMOUNTS:
        yield _resource_line(cost, name)
    if cost["held"]["gpu_s"]:
        share = (real["gpu_s"] + repeated["gpu_s"]) / cost["held"]["gpu_s"]
        held = quantity(cost["held"]["gpu_s"], "gpu_s")
        yield f"          GPU actors stood ready for {held}, {share:.0%} of it at work"
    if cost["further_gpu_s"]:
        yield f"          {quantity(cost['further_gpu_s'], 'gpu_s')} of the GPU's time went into further attempts"
    if real["cost"] is not None:
        yield _money_line(cost)


def _resource_line(cost: Mapping[str, Any], name: str) -> str:
    predicted = quantity(cost["predicted"][name], name)
    real = quantity(cost["real"][name], name)
    ratio = cost["ratio"][name]
    repeated = cost["repeated"][name]
    line = f"{_RESOURCES[name]:9} predicted {predicted}, real {real}"
    if ratio is not None:
        line += f" ({ratio:.2f} of it)"
    return f"{line}, and {quantity(repeated, name)} lost or failed" if repeated else line


def _money_line(cost: Mapping[str, Any]) -> str:
    say = Prices(currency=cost["currency"]).say
    market = str(cost["market"]).replace("_", " ")
    line = f"cost      predicted {say(cost['predicted']['cost'])}, real {say(cost['real']['cost'])} {market}"
    repeated = cost["repeated"]["cost"]
    return f"{line}, and {say(repeated)} for nothing" if repeated else line


def quantity(value: float, name: str) -> str:
    """Write `value` of `gpu_s`, `cpu_s` or `num_bytes` with its unit."""
    if name == "num_bytes":
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,.1f} s" if name == "gpu_s" else f"{value:,.1f} core-s"
