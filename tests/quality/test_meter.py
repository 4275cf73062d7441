"""The metrics of frames with known faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.fills import NUM_FRAMES, SIZE, pictures, textured
from vace_batch.geometry import Box
from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings
from vace_batch.quality.crops import CropPair
from vace_batch.quality.meter import Meter
from vace_batch.quality.verdict import REASONS, checks_of, judge

JOB = Job(job_id="a", video_uri="", task="removal")


Fill = Callable[[int, Any, Any], Any]


def metrics_of(fill: Fill) -> Mapping[str, float]:
    """Measure frames with `fill` in the mask, without a codec."""
    meter = Meter(cuts=(0,), joins=())
    for index in range(NUM_FRAMES):
        source, truth, mask = pictures(index)
        box = mask.box.pad(24).clip(SIZE)
        assert box is not None
        bits = mask.within(box)
        output = np.where(bits[..., None], fill(index, source, truth)[box.slices], truth[box.slices])
        source, output = (np.clip(image, 0, 255).astype(np.uint8) for image in (source[box.slices], output))
        meter.add(CropPair(index=index, box=box, source=source, output=output, mask=bits))
    return meter.metrics()


def test_the_truth_passes() -> None:
    for fill in (lambda i, s, t: t, lambda i, s, t: t + np.random.default_rng(i).normal(0, 2, t.shape)):
        verdict = judge(metrics_of(fill), checks_of(JOB), QualitySettings())
        assert (verdict.verdict, verdict.score, verdict.reasons) == ("pass", 0, ())


@pytest.mark.parametrize(
    ("check", "fill"),
    [
        ("residual", lambda i, s, t: s),
        ("residual", lambda i, s, t: 0.35 * s + 0.65 * t),
        ("gray", lambda i, s, t: np.full_like(t, 128)),
        ("seam", lambda i, s, t: t + 14),
        ("flicker", lambda i, s, t: t + (8 if i % 2 else -8)),
        ("step", lambda i, s, t: t + 12 * (i >= 5)),
        ("blur", lambda i, s, t: cv2.GaussianBlur(t, (0, 0), 3)),
        ("foreign", lambda i, s, t: np.full_like(t, (20, 230, 40))),
        ("flicker", lambda i, s, t: textured()[:, : SIZE.width]),  # does not move with its surroundings
    ],
    ids=["left", "left at 35%", "gray", "seam", "flicker", "step", "blur", "foreign", "frozen"],
)
def test_each_fault_is_found_by_its_check(check: str, fill: Fill) -> None:
    found = metrics_of(fill)
    verdict = judge(found, checks_of(JOB), QualitySettings())
    assert verdict.verdict != "pass"
    assert REASONS[check].format(percent=100 * found[check], value=found[check]) in verdict.reasons


def test_a_share_of_the_object_is_measured_as_such() -> None:
    for share in (0.3, 0.7, 1.0):
        left = metrics_of(lambda i, s, t, share=share: share * s + (1 - share) * t)["residual"]  # type: ignore[misc]
        assert left == pytest.approx(share, abs=0.12)


def test_a_cross_faded_join_is_summed_over_its_frames() -> None:
    def drifting(index: int, source: Any, truth: Any) -> Any:
        return truth + 2.0 * np.clip(index - 3, 0, 5)

    assert metrics_of(drifting).get("step", 0.0) < 4
    meter = Meter(cuts=(0,), joins=(range(3, 10),))
    for index in range(NUM_FRAMES):
        source, truth, mask = pictures(index)
        box = mask.box.pad(24).clip(SIZE)
        assert box is not None
        bits = mask.within(box)
        output = np.where(bits[..., None], drifting(index, source, truth)[box.slices], truth[box.slices])
        meter.add(CropPair(index=index, box=box, source=None, output=output.clip(0, 255).astype(np.uint8), mask=bits))
    assert meter.metrics()["step"] > 6


def test_cuts_are_no_steps() -> None:
    def cut(index: int, source: Any, truth: Any) -> Any:
        return truth + 30 * (index >= 5)

    meters = [Meter(cuts=cuts, joins=()) for cuts in ((0,), (0, 5))]
    for index in range(NUM_FRAMES):
        _, truth, mask = pictures(index)
        box = mask.box.pad(24).clip(SIZE)
        assert box is not None
        bits = mask.within(box)
        output = np.where(bits[..., None], cut(index, None, truth)[box.slices], truth[box.slices])
        for meter in meters:
            meter.add(
                CropPair(index=index, box=box, source=None, output=output.clip(0, 255).astype(np.uint8), mask=bits)
            )
    over, with_cut = (meter.metrics()["step"] for meter in meters)
    assert over > 20 and with_cut < 3


def test_a_picture_that_is_new_as_a_whole_is_held_against_its_source() -> None:
    whole = np.ones((SIZE.height, SIZE.width), np.bool_)
    meters = {"steady": Meter((0,), ()), "flickers": Meter((0,), ())}
    for index in range(NUM_FRAMES):
        _, truth, _ = pictures(index)
        for name, meter in meters.items():
            restyled = 255 - truth + (9 * (index % 2) if name == "flickers" else 0)
            images = [np.clip(image, 0, 255).astype(np.uint8) for image in (truth, restyled)]
            box = Box(0, 0, SIZE.width, SIZE.height)
            meter.add(CropPair(index=index, box=box, source=images[0], output=images[1], mask=whole))
    assert meters["steady"].metrics()["flicker"] < 1 < 4 < meters["flickers"].metrics()["flicker"]
