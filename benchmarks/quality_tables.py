"""Tables of the quality checks: false alarms and misses with confidence intervals, by check, defect and kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.quality_outputs import Label, Side
from benchmarks.quality_plan import Half
from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings
from vace_batch.quality.verdict import checks_of, judge

# The two checks that ask a detector are measured by detector_checks.py.
CHECKS = tuple(
    name for name in checks_of(Job(job_id="", video_uri="", task="removal")) if name not in ("detected", "appeared")
)

PAINTED = ("gray", "step", "flicker", "seam", "blur", "outside", "unlike", "texture", "foreign")
"""The checks that say that the fill is badly painted; all others say that the object is still there."""

THERE = tuple(check for check in CHECKS if check not in PAINTED)

FOUND_BY: Mapping[str, tuple[str, ...]] = {
    "nothing changed": ("unchanged", *THERE),
    "mask drops out": ("missed", *THERE),
    "mask begins late": ("missed", *THERE),
    "mask ends early": ("missed", *THERE),
    "mask too small": ("uncovered", *THERE),
    "gray": ("gray",),
    "inpainted": ("blur", "unlike"),
    "mean colour": ("blur", "unlike"),
    "blur": ("blur", "unlike"),
    "colour off": ("unlike", "seam"),
    "one channel off": ("unlike", "seam"),
    "wrong scale": ("unlike", "blur", "seam"),
    "foreign texture": ("unlike", "texture", "foreign", "seam", "flicker"),
    "another object": ("foreign", "unlike", "seam"),
    "line cut": ("unlike", "seam"),
    "flicker": ("flicker",),
    "colour step": ("step",),
    "frozen": ("flicker", "unlike", "seam"),
    "hard seam": ("seam", "unlike"),
    "changed outside": ("outside",),
}
"""Kind of defect -> the checks that are there to find the defect, the most telling first; by default `THERE`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured output of the set; `numbers` are the measurements behind the label."""

    scene: str
    half: Half
    kind: str
    output: str
    side: Side
    group: str
    strength: float
    label: Label
    numbers: Mapping[str, float]
    metrics: Mapping[str, float]

    @property
    def meant(self) -> tuple[str, ...]:
        """The checks meant for this defect."""
        named = FOUND_BY.get(self.group, THERE)
        return tuple(check for check in named if check in CHECKS) or THERE


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Return the 95% confidence interval of a share (Wilson 1927, equation for the score interval)."""
    if not whole:
        return 0.0, 1.0
    z = 1.959964
    share = part / whole
    middle = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * (share * (1 - share) / whole + z * z / (4 * whole * whole)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(part: int, whole: int) -> str:
    """Write a share with its counts and interval: `3/60, 5% [2-14%]`."""
    if not whole:
        return "none"
    low, high = wilson(part, whole)
    return f"{part}/{whole}, {part / whole:.0%} [{100 * low:.0f}-{100 * high:.0f}%]"


def alarms(row: Row, checks: Iterable[str], settings: QualitySettings) -> list[str]:
    """List the checks that are at or over their threshold for review."""
    return [check for check in checks if row.metrics.get(check, 0.0) >= settings.threshold(check).review]


def check_table(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Yield the table of the checks: alarms on good outputs, misses of the defects that the check is first to find."""
    good = [row for row in rows if row.label == "good"]
    bad = [row for row in rows if row.label == "bad"]
    yield "| check | threshold | false alarms | misses |\n|---|---|---|---|"
    for check in CHECKS:
        own = [row for row in bad if row.meant[0] == check]
        wrong = sum(bool(alarms(row, [check], settings)) for row in good)
        missed = sum(not alarms(row, [check], settings) for row in own)
        threshold = settings.threshold(check).review
        yield f"| {check} | {threshold:g} | {rate(wrong, len(good))} | {rate(missed, len(own))} |"
    for side, checks in (("there", THERE), ("painted", PAINTED)):
        own = [row for row in bad if row.side == side]
        wrong = sum(bool(alarms(row, checks, settings)) for row in good)
        missed = sum(not alarms(row, checks, settings) for row in own)
        yield f"| **{_TITLES[side]}** ({', '.join(checks)}) | | {rate(wrong, len(good))} | {rate(missed, len(own))} |"
    wrong = sum(bool(alarms(row, CHECKS, settings)) for row in good)
    missed = sum(not alarms(row, CHECKS, settings) for row in bad)
    yield f"| **whole verdict** | | {rate(wrong, len(good))} | {rate(missed, len(bad))} |"
    gone = [row for row in rows if row.side == "painted" and row.label == "bad" and row.numbers["worst_quarter"] < 0.06]
    wrong = sum(bool(alarms(row, THERE, settings)) for row in gone)
    yield f"| {_TITLES['there']}, said of bad fills without the object | | {rate(wrong, len(gone))} | |"


_TITLES = {"there": "still there", "painted": "badly painted"}


def defect_table(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Yield the table of each defect at each strength: missed by the checks for this defect, and by all checks."""
    yield "| output | labelled bad | missed by its checks | passes | labelled good | of these not passed |"
    yield "|" + "---|" * 6
    for side in ("good", "there", "painted"):
        names = dict.fromkeys(row.output for row in sorted(rows, key=_order) if row.side == side)
        for name in names:
            of_name = [row for row in rows if row.output == name]
            bad = [row for row in of_name if row.label == "bad"]
            good = [row for row in of_name if row.label == "good"]
            checks = bad[0].meant if bad else ()
            missed = sum(not alarms(row, checks, settings) for row in bad)
            passes = sum(not alarms(row, CHECKS, settings) for row in bad)
            wrong = sum(bool(alarms(row, CHECKS, settings)) for row in good)
            yield (
                f"| {name} | {len(bad)} | {rate(missed, len(bad))} | {rate(passes, len(bad))} "
                f"| {len(good)} | {rate(wrong, len(good))} |"
            )


def _order(row: Row) -> tuple[str, float]:
    return row.group, row.strength


def kind_table(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Yield the table of each kind of scene: good outputs that do not pass, and by which checks."""
    yield "| kind of scene | good outputs that do not pass | by | bad outputs that pass |\n|---|---|---|---|"
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        good = [row for row in of_kind if row.label == "good"]
        bad = [row for row in of_kind if row.label == "bad"]
        by = Counter(check for row in good for check in alarms(row, CHECKS, settings))
        wrong = sum(judge(row.metrics, CHECKS, settings).verdict != "pass" for row in good)
        passes = sum(judge(row.metrics, CHECKS, settings).verdict == "pass" for row in bad)
        reasons = ", ".join(f"{check} {count}" for check, count in by.most_common())
        yield f"| {kind} | {rate(wrong, len(good))} | {reasons} | {rate(passes, len(bad))} |"


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> float:
    """Choose the threshold with the fewest outputs on the wrong side; among equals, the middle of the gap.

    A false alarm counts twice.
    """
    values = sorted({0.0, *good, *bad})
    places = [(low + high) / 2 for low, high in zip(values, values[1:], strict=False)] or [1.0]
    wrong = [sum(value >= at for value in good) * 2 + sum(value < at for value in bad) for at in places]
    least = [at for at, count in zip(places, wrong, strict=True) if count == min(wrong)]
    return least[len(least) // 2]


def fitted(rows: Sequence[Row], check: str) -> str:
    """Say which threshold the fit half alone would choose for a check, and the errors with it on both halves."""
    lines = []
    values: dict[tuple[Half, Label], list[float]] = {}
    for row in rows:
        if row.label == "good" or (row.label == "bad" and row.meant[0] == check):
            values.setdefault((row.half, row.label), []).append(row.metrics.get(check, 0.0))
    threshold = best_threshold(values.get(("fit", "good"), []), values.get(("fit", "bad"), []))
    lines.append(f"{check}: the fit half chooses {threshold:.4g}")
    halves: tuple[Half, Half] = ("fit", "unseen")
    for half in halves:
        good, bad = values.get((half, "good"), []), values.get((half, "bad"), [])
        wrong, missed = sum(value >= threshold for value in good), sum(value < threshold for value in bad)
        lines.append(f"  {half}: false alarms {rate(wrong, len(good))}; misses {rate(missed, len(bad))}")
    return "\n".join(lines)
