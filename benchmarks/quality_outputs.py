"""The outputs of the quality set, good and with defects, each with a label that is measured on the truth."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.quality_defects import GOOD_MAKERS, THERE_MAKERS
from benchmarks.quality_fills import Made, Maker
from benchmarks.quality_label import Measured, measure
from benchmarks.quality_painted import PAINTED_MAKERS
from benchmarks.quality_plan import CASES, SPECS, Half, scene_names
from benchmarks.quality_scenes import RgbImage, Scene
from vace_batch.masks.store import FrameMask

Label = Literal["good", "bad", "none"]
Side = Literal["good", "there", "painted"]

LEAST_CONTRAST = 6.0
"""An object that differs from the truth by fewer levels on average is no object that anybody sees."""

LEAST_RESIDUE = 0.06
LEAST_RESIDUE_LEVELS = 3.0
"""From this share of the object on, if it is at least so many levels, the object is still there."""

_CHANCE_RESIDUE = 0.15
"""Another background agrees with the object by chance up to this share in a quarter or in three frames."""

ENOUGH_PSNR_DB = 32.0
POOR_PSNR_DB = 30.0
"""A painted fill is good from the first value on, and bad below the second one; between them it has no label."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output of `scene` (which may be a variant of the scene that was asked for), with the `masks` of its run.

    `side` says what the output is for: a good one, one that leaves the object, or one that is badly painted; `group` is
    the kind of defect and `strength` the defect's strength in the unit that `name` shows.
    """

    scene: Scene
    name: str
    side: Side
    group: str
    strength: float
    frames: Sequence[RgbImage]
    masks: Mapping[int, FrameMask]
    label: Label
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One output of the catalogue: a defect at one strength."""

    name: str
    side: Side
    group: str
    strength: float
    make: Maker
    every: int
    """The output is made for one of so many scenes, counted from scene `first` on."""
    first: int


def _planned() -> Iterator[Planned]:
    sides: tuple[tuple[Side, Mapping[str, tuple[Maker, Sequence[float], int]]], ...] = (
        ("good", GOOD_MAKERS),
        ("there", THERE_MAKERS),
        ("painted", PAINTED_MAKERS),
    )
    for side, makers in sides:
        for name, (make, strengths, every) in makers.items():
            group = name.split(" {")[0].split(",")[0]
            for number, strength in enumerate(strengths):
                shown = name.format(round(100 * strength) if "%" in name else f"{strength:g}")
                yield Planned(
                    name=shown,
                    side=side,
                    group=group,
                    strength=strength,
                    make=make,
                    every=every,
                    first=zlib.crc32(group.encode()) + number * max(1, every // len(strengths)),
                )


CATALOGUE: tuple[Planned, ...] = tuple(_planned())
_HALVES: Mapping[str, Half] = {**{spec.name: spec.half for spec in SPECS}, **CASES}


def planned_for(scene: str) -> list[Planned]:
    """Choose the outputs of a scene: each entry of the catalogue for one scene of `every`, evenly in both halves."""
    number = scene_names(_HALVES[scene]).index(scene)
    return [entry for entry in CATALOGUE if (number + entry.first) % entry.every == 0]


def outputs(scene: Scene, few: int = 1) -> Iterator[Output]:
    """Make the outputs of a scene; where a defect makes no sense in a scene, the output is left out.

    `few`: only the truth, and one of every so many others.
    """
    shift = zlib.crc32(scene.name.encode())
    for number, entry in enumerate(planned_for(scene.name)):
        if number and (number + shift) % few:
            continue
        made = entry.make(scene, entry.strength)
        if made is not None:
            yield labelled(entry, made)


def labelled(entry: Planned, made: Made) -> Output:
    """Measure the label of an output."""
    measured = measure(made.scene, made.frames)
    return Output(
        scene=made.scene,
        name=entry.name,
        side=entry.side,
        group=entry.group,
        strength=entry.strength,
        frames=made.frames,
        masks=made.masks,
        label=_label(entry, measured, made.scene.kind),
        measured=measured,
    )


def _label(entry: Planned, measured: Measured, kind: str) -> Label:
    seen = measured.contrast >= LEAST_CONTRAST
    worst = max(measured.residue, measured.worst_quarter, measured.worst_frames)
    least = _CHANCE_RESIDUE if entry.group == "other place" else LEAST_RESIDUE
    still_there = worst >= least and worst * measured.contrast >= LEAST_RESIDUE_LEVELS
    if entry.side == "there":
        return "bad" if seen and still_there else "none"
    if entry.side == "good":
        poor = entry.group == "recovered" and measured.psnr_db < POOR_PSNR_DB
        return "none" if poor or (seen and still_there) else "good"
    label = _RULES.get(entry.group, _by_psnr)(measured, entry.strength)
    # A fill without the grain of its surroundings is near the truth in dB, and yet a plain patch to the eye.
    return "none" if label == "good" and kind == "grain" else label


def _by_psnr(measured: Measured, strength: float) -> Label:
    if measured.psnr_db >= ENOUGH_PSNR_DB:
        return "good"
    return "bad" if measured.psnr_db < POOR_PSNR_DB else "none"


def _by_shift(measured: Measured, strength: float) -> Label:
    """A shift of brightness or colour is bad if it is there: levels that are cut off at 0 or 255 hide a shift."""
    return "bad" if measured.shift >= 0.7 * strength else "none"


def _by_outside(measured: Measured, strength: float) -> Label:
    return "bad" if measured.outside >= 0.7 * strength else "none"


_RULES: Mapping[str, Callable[[Measured, float], Label]] = {
    "colour off": _by_shift,
    "one channel off": _by_shift,
    "flicker": _by_shift,
    "colour step": _by_shift,
    "hard seam": _by_shift,
    "changed outside": _by_outside,
}
