"""Calculate costs: resources of work, measured rates of a machine, prices, and a budget. Pure arithmetic.

A GPU-second is a second of a device at work, or, without a GPU, a second of processor time of the core in its place.
A core-second is a second of processor time. Bytes are those in OUT. Waiting and loading of models count as no resource.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

_HOUR_S = 3600.0
_GB = 1e9


class StepKind(StrEnum):
    """The steps of a clip, each dispatched, priced and recorded by this name."""

    PREPARE = "prepare"
    BUILD = "build"
    GENERATE = "generate"
    STITCH = "stitch"
    MEASURE = "measure"
    SELECT_BEST = "select_best"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Resources that a piece of work has used."""

    gpu_s: float = 0.0
    cpu_s: float = 0.0
    num_bytes: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(
            gpu_s=self.gpu_s + other.gpu_s,
            cpu_s=self.cpu_s + other.cpu_s,
            num_bytes=self.num_bytes + other.num_bytes,
        )

    def __mul__(self, factor: float) -> Used:
        return Used(gpu_s=self.gpu_s * factor, cpu_s=self.cpu_s * factor, num_bytes=self.num_bytes * factor)

    def as_dict(self) -> dict[str, float]:
        return {"gpu_s": round(self.gpu_s, 6), "cpu_s": round(self.cpu_s, 6), "num_bytes": round(self.num_bytes)}


def total(parts: Iterable[Used]) -> Used:
    """Add up resources."""
    return sum(parts, Used())


class Rate(BaseModel):
    """Core-seconds of a step, per frame and per megapixel of a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame: float = Field(ge=0)
    mpx: float = Field(ge=0)

    def seconds(self, num_frames: float, mpx: float) -> float:
        """Return the core-seconds for `num_frames` frames of `mpx` megapixels each."""
        return num_frames * (self.frame + mpx * self.mpx)


class Speed(BaseModel):
    """Device seconds of a window: a constant, plus seconds per TFLOP (1e12) of transformer and of VAE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call_s: float = Field(0.0, ge=0)
    transformer_s: float = Field(ge=0)
    vae_s: float = Field(ge=0)

    @classmethod
    def sustained(cls, tflops: float) -> Speed:
        """Make a speed of one rate for transformer and VAE."""
        return cls(transformer_s=1 / tflops, vae_s=1 / tflops)

    def seconds(self, transformer_flop: float, vae_flop: float) -> float:
        return self.call_s + self.transformer_s * transformer_flop / 1e12 + self.vae_s * vae_flop / 1e12


class CpuRates(BaseModel):
    """Core-seconds by step; the defaults were measured once (`Calibration.machine`).

    `scan` is decoding and cut detection of every frame, `look` detection in the frames given to the detector, `build`
    work per frame of a window, and the others work per masked frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: Rate = Rate(frame=0.001, mpx=0.005)
    look: Rate = Rate(frame=0.008, mpx=0.008)
    background: Rate = Rate(frame=0.08, mpx=0.3)
    build: Rate = Rate(frame=0.001, mpx=0.008)
    stitch: Rate = Rate(frame=0.004, mpx=0.24)
    quality: Rate = Rate(frame=0.005, mpx=0.03)


class ByteRates(BaseModel):
    """Bytes written: `masks` and `background` per megapixel of masked frames, `window` per generated megapixel, and
    `video` per byte of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    masks: float = Field(1_500, ge=0)
    background: float = Field(90_000, ge=0)
    window: float = Field(700_000, ge=0)
    video: float = Field(1.0, ge=0)


class Calibration(BaseModel):
    """Rates of a machine, measured by `vace-batch doctor --calibrate FILE`; `models` has the speed of each named model.

    By default the embedded model has the speed of a CPU core, and other models that of a GPU that sustains 350 TFLOP/s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str = "defaults: 2 cores of x86-64, and GPUs of 350 TFLOP/s, not measured"
    measured_at: str = "2026-11-23"
    cpu: CpuRates = CpuRates()
    bytes: ByteRates = ByteRates()
    models: dict[str, Speed] = {"tiny": Speed(call_s=0.07, transformer_s=0.0, vae_s=4.5)}
    other: Speed = Field(Speed.sustained(350.0), description="speed of models that were not measured")

    def speed(self, model: str) -> Speed:
        return self.models.get(model, self.other)


class Prices(BaseModel):
    """Prices of resources, in any currency. A resource without a price, the default, is left out of the sum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field("", description="name of the currency, for display")
    gpu_hour: float | None = Field(None, ge=0, description="price of a GPU and its machine, on demand")
    gpu_hour_spot: float | None = Field(None, ge=0, description="price of a GPU and its machine, spot")
    cpu_hour: float | None = Field(None, ge=0, description="price of a core of the CPU machines, on demand")
    cpu_hour_spot: float | None = Field(None, ge=0, description="price of a core of the CPU machines, spot")
    gb_month: float | None = Field(None, ge=0, description="price of storing 1e9 bytes for a month")
    months: float = Field(1.0, ge=0, description="months that OUT is stored")
    market: str = Field(
        "on_demand", pattern="^(on_demand|spot)$", description="market whose prices a run's costs and budget use"
    )

    @property
    def given(self) -> bool:
        return any(getattr(self, name) is not None for name in _PRICED)

    def money(self, used: Used, market: str | None = None) -> float | None:
        """Return the cost of `used` in `market`, by default the run's market; None if no price is given.

        A missing spot price is the price on demand.
        """
        if not self.given:
            return None
        gpu, cpu = self.gpu_hour, self.cpu_hour
        if (market or self.market) == "spot":
            gpu = gpu if self.gpu_hour_spot is None else self.gpu_hour_spot
            cpu = cpu if self.cpu_hour_spot is None else self.cpu_hour_spot
        hours = used.gpu_s * (gpu or 0) + used.cpu_s * (cpu or 0)
        return hours / _HOUR_S + used.num_bytes / _GB * (self.gb_month or 0) * self.months

    def both(self, used: Used) -> dict[str, float] | None:
        """Return the cost of `used` by market; None if no price is given."""
        if not self.given:
            return None
        has_spot = self.gpu_hour_spot is not None or self.cpu_hour_spot is not None
        markets = ("on_demand", "spot") if has_spot else ("on_demand",)
        return {market: round(self.money(used, market) or 0.0, 6) for market in markets}

    def say(self, money: float) -> str:
        """Format a sum as `12.30 EUR`, small sums with more digits."""
        return f"{money:,.{2 if money >= 1 else 4}f} {self.currency}".rstrip()


_PRICED = ("gpu_hour", "gpu_hour_spot", "cpu_hour", "cpu_hour_spot", "gb_month")


class BudgetSettings(BaseModel):
    """Limits of the work ever done in OUT; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_gpu_hours: float | None = Field(
        None, ge=0, description="GPU-hours after which no window begins; work of all runs into OUT counts."
    )
    max_cost: float | None = Field(
        None, ge=0, description="Cost by --price after which no window begins; work of all runs into OUT counts."
    )

    @property
    def is_set(self) -> bool:
        return self.max_gpu_hours is not None or self.max_cost is not None

    def exceeded(self, used: Used, prices: Prices) -> str | None:
        """Return the option whose limit `used` exceeds; None within all limits."""
        if self.max_gpu_hours is not None and used.gpu_s > self.max_gpu_hours * _HOUR_S:
            return f"--max-gpu-hours {self.max_gpu_hours:g}"
        if self.max_cost is not None and (prices.money(used) or 0.0) > self.max_cost:
            return f"--max-cost {self.max_cost:g}"
        return None
