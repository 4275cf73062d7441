"""Test the quality set: its size, its two halves, the labels of constructed outputs, and the numbers of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.quality import as_decoded
from benchmarks.quality_fills import Made, filled
from benchmarks.quality_outputs import CATALOGUE, Label, Output, Planned, labelled, outputs, planned_for
from benchmarks.quality_plan import CASES, SPECS, Half, scene_names
from benchmarks.quality_scenes import Scene, drawn, scenes
from benchmarks.quality_tables import Row, best_threshold, check_table, fitted, rate, wilson
from vace_batch.options import QualitySettings

HALVES: tuple[Half, Half] = ("fit", "unseen")
FLAT = "07 flat, flat (fit)"


def test_the_set_has_the_size_that_its_error_rates_need() -> None:
    names = [name for half in HALVES for name in scene_names(half)]
    assert len(names) == len(set(names)) == len(SPECS) + len(CASES) >= 60
    assert sum(len(planned_for(name)) for name in names) >= 300
    without_data = [spec for spec in SPECS if not spec.needs_data]
    assert len(without_data) >= 60


def test_no_scene_and_no_background_is_in_both_halves() -> None:
    halves: dict[str, set[Half]] = {}
    seeds: dict[int, set[Half]] = {}
    for spec in SPECS:
        sources = [f"film {spec.film}"] * bool(spec.film) + [f"case {spec.cutout}"] * bool(spec.cutout)
        sources += [spec.ground] * spec.ground.startswith("picture:")
        for source in (spec.name, *sources):
            halves.setdefault(source, set()).add(spec.half)
        seeds.setdefault(spec.seed, set()).add(spec.half)
    for name, half in CASES.items():
        halves.setdefault(f"case {name}", set()).add(half)
    assert all(len(each) == 1 for each in (*halves.values(), *seeds.values()))


def test_every_kind_of_scene_is_in_both_halves() -> None:
    kinds = Counter((spec.kind, spec.half) for spec in SPECS)
    assert all(kinds[spec.kind, half] for spec in SPECS for half in HALVES)


@pytest.mark.parametrize("half", HALVES)
def test_every_defect_is_planned_for_many_scenes_of_each_half(half: Half) -> None:
    groups = Counter(group for name in scene_names(half) for group in {entry.group for entry in planned_for(name)})
    planned = {entry.group for entry in CATALOGUE if entry.side != "good"}
    assert {group: groups[group] for group in planned if groups[group] < 20} == {}


@pytest.fixture(scope="module")
def flat() -> Scene:
    return next(scenes(None, (FLAT,)))


def _output(scene: Scene, name: str) -> Output:
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    made = entry.make(scene, entry.strength)
    assert made is not None
    return labelled(entry, made)


def test_the_truth_is_good(flat: Scene) -> None:
    output = _output(flat, "truth")
    assert output.label == "good" and output.measured.psnr_db == 99.0
    assert output.measured.residue == pytest.approx(0, abs=0.01)


def test_an_object_at_30_percent_is_measured_and_bad(flat: Scene) -> None:
    output = _output(flat, "left at 30%")
    assert output.label == "bad"
    assert output.measured.residue == pytest.approx(0.3, abs=0.02)


def test_an_inpainted_flat_wall_is_good_and_a_textured_one_is_not(flat: Scene) -> None:
    assert _output(flat, "inpainted, Telea").label == "good"
    textured = next(scenes(None, ("01 texture, middle (fit)",)))
    assert _output(textured, "inpainted, Telea").label == "bad"


def test_the_residue_of_one_half_is_seen_in_the_worst_quarter(flat: Scene) -> None:
    measured = _output(flat, "part left, 50%").measured
    assert measured.worst_quarter > 0.9 > 0.7 > measured.residue


def test_three_frames_with_the_object_are_seen_in_the_worst_frames(flat: Scene) -> None:
    output = _output(flat, "mask drops out, 3 frames")
    assert output.label == "bad" and output.measured.worst_frames == pytest.approx(1, abs=0.01)
    assert len(output.masks) == len(flat.masks) - 3


def test_another_plausible_background_is_no_residue_of_the_object() -> None:
    leaves = next(scenes(None, ("09 leaves, leaves (unseen)",)))
    output = _output(leaves, "other place, 5 px beside")
    assert output.measured.psnr_db < 25 and output.label == "good"


def test_an_object_that_nobody_sees_gives_no_bad_output(flat: Scene) -> None:
    faint = [
        np.rint(0.03 * source.astype(np.float32) + 0.97 * truth).astype(np.uint8)
        for source, truth in zip(flat.source, flat.truth, strict=True)
    ]
    hidden = replace(flat, source=faint)
    assert _output(hidden, "left at 100%").label == "none"


def test_a_colour_that_cannot_rise_is_not_called_wrong(flat: Scene) -> None:
    white = [np.full_like(frame, 255) for frame in flat.truth]
    entry = next(entry for entry in CATALOGUE if entry.name == "hard seam, 14 levels")
    assert labelled(entry, filled(flat, lambda i, s, t: t)).label == "none"
    shown = replace(flat, source=white, truth=white)
    assert labelled(entry, filled(shown, lambda i, s, t: t + 14)).label == "none"


def test_masks_of_a_static_box_cover_frames_without_the_object() -> None:
    spec = next(spec for spec in SPECS if spec.masks == "static box")
    scene = drawn(spec, None)
    empty = [index for index in scene.masks if index not in scene.objects]
    assert empty and all(np.array_equal(scene.source[index], scene.truth[index]) for index in empty)


def test_wilson_is_the_interval_of_the_textbook() -> None:
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-3)
    assert wilson(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-3)
    assert rate(0, 0) == "none" and rate(5, 50) == "5/50, 10% [4-21%]"


def _row(half: Half, label: Label, residual: float) -> Row:
    metrics: Mapping[str, float] = {"residual": residual}
    return Row(
        scene="a",
        half=half,
        kind="flat",
        output="left",
        side="good" if label == "good" else "there",
        group="left at",
        strength=1.0,
        label=label,
        numbers={"worst_quarter": 0.0},
        metrics=metrics,
    )


def test_the_tables_count_false_alarms_and_misses() -> None:
    at = QualitySettings().residual.review
    rows = [_row("unseen", "good", at), *[_row("unseen", "good", 0.0)] * 3, _row("unseen", "bad", at / 2)]
    line = next(line for line in check_table(rows, QualitySettings()) if line.startswith("| residual"))
    assert "1/4, 25%" in line and "1/1, 100%" in line


def test_the_fitted_threshold_never_sees_the_unseen_half() -> None:
    fit = [*[_row("fit", "good", 0.1)] * 9, *[_row("fit", "bad", 0.5)] * 9]
    unseen = [*[_row("unseen", "good", 0.4)] * 9, *[_row("unseen", "bad", 0.2)] * 9]
    shown = fitted([*fit, *unseen], "residual").splitlines()
    assert shown[0].endswith("chooses 0.3") and "9/9" in shown[2] and "0/9" in shown[1]
    assert best_threshold([0.1], [0.5]) == pytest.approx(0.3)


def test_a_catalogue_entry_belongs_to_one_scene_in_so_many() -> None:
    entry: Planned = next(entry for entry in CATALOGUE if entry.name == "nothing changed")
    made = Made(scene=next(scenes(None, (FLAT,))), frames=[], masks={})
    assert made.scene.name == FLAT
    count = sum(entry in planned_for(name) for name in scene_names("fit"))
    assert abs(count - len(scene_names("fit")) / entry.every) < 1


def test_pixels_that_an_output_leaves_come_from_the_decoded_source(flat: Scene) -> None:
    output = _output(flat, "truth")
    decoded = [frame // 2 for frame in flat.source]
    made = list(as_decoded(output, decoded))
    assert np.array_equal(made[3][:8], decoded[3][:8])
    bits = flat.objects[3]
    assert np.array_equal(made[3][bits], flat.truth[3][bits])


def test_few_outputs_keep_the_truth_and_differ_from_scene_to_scene(flat: Scene) -> None:
    names = [output.name for output in outputs(flat, few=5)]
    assert names[0] == "truth" and 2 <= len(names) <= len(planned_for(FLAT)) // 5 + 2
