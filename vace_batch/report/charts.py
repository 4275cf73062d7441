"""Compute places and sizes of SVG charts; the template draws the charts, and escapes names.

Units of a chart: widths are percent of its width unless said otherwise, heights are px.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_MOST_BARS = 8
_WIDEST_PX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a whole, or a bar: start and length in percent of the chart's width."""

    name: str
    value: float
    share: float
    start: float
    length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One step of time: place and size in px; `label` has its time and value."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Columns over time: `ticks` are heights with their values, `marks` places with their times."""

    columns: tuple[Column, ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str], ...]
    step: str


def stacked(counts: Mapping[str, float]) -> tuple[Part, ...]:
    """Lay out the parts of a whole one after the other; empty parts have no length."""
    total = sum(counts.values())
    parts, start = [], 0.0
    for name, value in counts.items():
        share = value / total if total else 0.0
        parts.append(Part(name=name, value=value, share=share, start=100 * start, length=100 * share))
        start += share
    return tuple(parts)


def ranked(values: Mapping[str, float]) -> tuple[Part, ...]:
    """Lay out bars from longest to shortest; the eighth bar sums up all `others`."""
    order = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    if len(order) > _MOST_BARS:
        rest = order[_MOST_BARS - 1 :]
        order = [*order[: _MOST_BARS - 1], (f"{len(rest)} others", sum(value for _, value in rest))]
    total = sum(values.values()) or 1.0
    most = max((value for _, value in order), default=0.0) or 1.0
    return tuple(
        Part(name=name, value=value, share=value / total, start=0.0, length=100 * value / most) for name, value in order
    )


def timeline(
    steps: Sequence[tuple[int, float]], step_s: int, unit: str, *, width: float = 600, height: float = 120
) -> Timeline:
    """Lay out columns for (Unix time, value) pairs of equal steps."""
    most = nice_ceiling(max((value for _, value in steps), default=0.0))
    pitch = min(width / max(len(steps), 1), _WIDEST_PX)
    gap = min(2.0, pitch / 4)
    columns = tuple(
        Column(
            x=round(number * pitch + gap / 2, 2),
            y=round(height * (1 - value / most), 2),
            width=round(pitch - gap, 2),
            height=round(height * value / most, 2),
            label=f"{clock(start, step_s)}: {value:,.0f} {unit}",
        )
        for number, (start, value) in enumerate(steps)
    )
    ticks = tuple((round(height * (1 - part), 2), f"{most * part:,.10g}") for part in (0.5, 1.0))
    shown = sorted({0, len(steps) // 2, len(steps) - 1}) if len(steps) > 2 else range(len(steps))
    marks = tuple((round((number + 0.5) * pitch, 2), clock(steps[number][0], step_s)) for number in shown)
    return Timeline(columns=columns, ticks=ticks, marks=marks, step=step_name(step_s))


def nice_ceiling(value: float) -> float:
    """Round `value` up to 1, 2, 5, 10, 20, ...."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= value * (1 - 1e-9))


def clock(unix_s: float, step_s: int = 60) -> str:
    """Write a time in UTC, as exactly as steps of `step_s` need."""
    when = datetime.fromtimestamp(unix_s, UTC)
    return when.strftime("%Y-%m-%d" if step_s >= 86400 else "%b %d, %H:%M")


def step_name(step_s: int) -> str:
    """Write a step of time: `minute`, `15 minutes`, `6 hours`."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if step_s % size == 0:
            count = step_s // size
            return name if count == 1 else f"{count} {name}s"
    return f"{step_s} seconds"


def amount(seconds: float) -> str:
    """Write GPU-seconds as seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
