"""What the runs on an output folder took and what that was predicted to take.

    OUT/ledger/usage/<run>.json     one a run, written again and again while it goes on

Both are counted when a step ends, so that they are of the same work, whenever a run was stopped. What a driver that was
killed did in its last seconds is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vace_batch.costs import Prices, Used, total
from vace_batch.storage import files as storage

FOLDER = ("ledger", "usage")
_AMOUNTS = ("gpu_s", "cpu_s", "num_bytes")
_ORDER = {name: at for at, name in enumerate(("prepare", "build", "generate", "stitch", "measure"))}
_WORDS = {"gpu_s": "GPU", "cpu_s": "CPU", "num_bytes": "storage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sums over runs. `predicted` and `real` are by step; `repeated` is what came to nothing: runs that were lost with
    a machine, failed, or were stopped. `held` is how long the actors stood ready, waiting included. `stopped` is why
    the latest run's budget let nothing more begin, if it did."""

    predicted: Mapping[str, Used] = field(default_factory=dict)
    real: Mapping[str, Used] = field(default_factory=dict)
    repeated: Used = Used()
    held: Used = Used()
    stopped: str | None = None

    @property
    def factor(self) -> float | None:
        """Real over predicted GPU-seconds of windows; None before there are any."""
        real, predicted = (steps.get("generate", Used()).gpu_s for steps in (self.real, self.predicted))
        return real / predicted if real and predicted else None

    @property
    def spent(self) -> Used:
        """All that was used, for whatever it was."""
        return total(self.real.values()) + self.repeated

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """Predicted, real and their ratio, in all and by step."""
        predicted, real = total(self.predicted.values()), total(self.real.values())
        return {
            "predicted": _told(predicted, prices),
            "real": _told(real, prices),
            "ratio": {name: _ratio(getattr(real, name), getattr(predicted, name)) for name in _AMOUNTS},
            "repeated": _told(self.repeated, prices),
            "held": {"gpu_s": round(self.held.gpu_s, 3), "cpu_s": round(self.held.cpu_s, 3)},
            "steps": {
                name: {"predicted": self.predicted.get(name, Used()).as_dict(), "real": used.as_dict()}
                for name, used in sorted(self.real.items(), key=lambda step: _ORDER.get(step[0], len(_ORDER)))
            },
            "currency": prices.currency,
            "market": prices.market,
        }


def _told(used: Used, prices: Prices) -> dict[str, float | None]:
    money = prices.money(used)
    return {**used.as_dict(), "cost": None if money is None else round(money, 6)}


def _ratio(real: float, predicted: float) -> float | None:
    return round(real / predicted, 3) if predicted else None


def read_usage(out: str) -> Usage:
    """Of all runs on `out`."""
    folder = storage.join(out, *FOLDER)
    uris = [storage.join(folder, name) for name in sorted(storage.list_files(folder)) if name.endswith(".json")]
    bodies = [storage.read_json(uri) for uri in uris]
    return Usage(
        predicted=_by_step(body["predicted"] for body in bodies),
        real=_by_step(body["real"] for body in bodies),
        repeated=total(Used(**body["repeated"]) for body in bodies),
        held=total(Used(**body["held"]) for body in bodies),
        stopped=max(bodies, key=lambda body: body["began_at"]).get("stopped") if bodies else None,
    )


def _by_step(parts: Iterator[Mapping[str, Mapping[str, float]]]) -> dict[str, Used]:
    found: dict[str, Used] = {}
    for part in parts:
        for name, used in part.items():
            found[name] = found.get(name, Used()) + Used(**used)
    return found


def cost_lines(cost: Mapping[str, Any]) -> Iterator[str]:
    """Predicted against real, as a person reads it; nothing where nothing was used."""
    predicted, real, ratio, repeated = (cost[name] for name in ("predicted", "real", "ratio", "repeated"))
    if not any(real[name] for name in _AMOUNTS):
        return
    for name in _AMOUNTS:
        times = "" if ratio[name] is None else f" ({ratio[name]:.2f} of it)"
        more = f", and {quantity(repeated[name], name)} that came to nothing" if repeated[name] else ""
        both = f"predicted {quantity(predicted[name], name)}, real {quantity(real[name], name)}"
        yield f"{_WORDS[name]:9} {both}{times}{more}"
    if cost["held"]["gpu_s"]:
        share = (real["gpu_s"] + repeated["gpu_s"]) / cost["held"]["gpu_s"]
        yield f"          its actors stood {quantity(cost['held']['gpu_s'], 'gpu_s')}, {share:.0%} of that at work"
    if cost["further_gpu_s"]:
        yield f"          {quantity(cost['further_gpu_s'], 'gpu_s')} of the GPU's were further attempts"
    if real["cost"] is not None:
        say = Prices(currency=cost["currency"]).say
        more = f", and {say(repeated['cost'])} for nothing" if repeated["cost"] else ""
        yield f"cost      predicted {say(predicted['cost'])}, real {say(real['cost'])} {_market(cost)}{more}"


def _market(cost: Mapping[str, Any]) -> str:
    return str(cost["market"]).replace("_", " ")


def quantity(value: float, name: str) -> str:
    """`value` of `gpu_s`, `cpu_s` or `num_bytes` with its unit."""
    if name == "num_bytes":
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,.1f} s" if name == "gpu_s" else f"{value:,.1f} core-s"
