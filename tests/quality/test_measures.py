"""What the checks find in pictures whose faults are known, and what a verdict makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from tests.support.records import check_records
from vace_batch.batch import workers
from vace_batch.batch.identity import works_of
from vace_batch.cluster.units import Call
from vace_batch.geometry import Box, Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.verdicts import verdict_of
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.options import Options, QualitySettings, Threshold
from vace_batch.quality.compare import Comparison, compared_spans
from vace_batch.quality.container import Contract, container_faults
from vace_batch.quality.measures import neutral, object_bits, uncovered
from vace_batch.quality.meter import CropPair, Meter
from vace_batch.quality.verdict import REASONS, checks_of, judge
from vace_batch.steps.measure import measure
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.probe import probe
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip

SIZE = Size(160, 128)
NUM_FRAMES = 12
JOB = Job(job_id="a", video_uri="", task="removal")

Fill = Callable[[int, Any, Any], Any]


def textured(seed: int = 3) -> Any:
    noise = np.random.default_rng(seed).uniform(-127, 127, (SIZE.height, SIZE.width + 40, 3)).astype(np.float32)
    return 110 + cv2.GaussianBlur(noise, (0, 0), 1.2) * 0.4 + cv2.GaussianBlur(noise, (0, 0), 10) * 3


def pictures(index: int) -> tuple[Any, Any, FrameMask]:
    """Source, truth and mask of one frame: a patterned disc that goes over a ground that pans by a pixel a frame."""
    truth = textured()[:, index : index + SIZE.width]
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    near = (x - 60 - 2 * index) ** 2 + (y - 62) ** 2
    source = np.where((near < 22**2)[..., None], [200.0, 40.0, 30.0] + 30 * np.sin(x / 3)[..., None], truth)
    mask = make_mask(index, near < 27**2)
    assert mask is not None
    return source, truth, mask


def metrics_of(fill: Fill) -> Mapping[str, float]:
    """What the meter says where `fill` is in the mask; without a codec."""
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


def test_only_what_is_neutral_in_every_channel_is_gray() -> None:
    inside = np.zeros((64, 64), np.bool_)
    inside[16:48, 16:48] = True
    for colour, found in (((128, 128, 128), True), ((128, 60, 128), False), ((60, 60, 60), False)):
        picture = np.full((64, 64, 3), 200.0, np.float32)
        picture[inside] = colour
        gray, area = neutral(picture, inside)
        assert (gray / area > 0.7) == found and (gray == 0) != found, colour


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


@pytest.mark.parametrize(("radius", "least", "most"), [(27, 0.0, 0.0), (23, 0.0, 0.02), (18, 0.5, 1.0), (12, 0.9, 1.0)])
def test_a_mask_that_ends_in_the_object_is_too_small(radius: int, least: float, most: float) -> None:
    """The disc has a radius of 22 px."""
    source, _, mask = pictures(0)
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    bits = (x - 60) ** 2 + (y - 62) ** 2 < radius**2
    rim, whole = uncovered(source.astype(np.float32), bits)
    assert least <= rim / whole <= most
    alike = np.where(mask.full(SIZE)[..., None], np.roll(textured()[:, : SIZE.width], 9, axis=1), source)
    assert uncovered(alike.astype(np.float32), bits)[0] == 0, "the surroundings look like that, too"


def test_an_object_stands_out_by_any_channel_and_by_more_than_texture() -> None:
    y, x = np.mgrid[0:96, 0:96]
    disc = (x - 48) ** 2 + (y - 48) ** 2 < 20**2
    plain = np.full((96, 96, 3), 100.0, np.float32)
    blue = np.where(disc[..., None], plain + np.float32([0, 0, 40]), plain)
    assert object_bits(blue, disc)[disc].mean() > 0.9 and not object_bits(plain, disc).any()
    rough = plain + np.random.default_rng(2).normal(0, 25, plain.shape).astype(np.float32)
    faint = np.where(disc[..., None], rough + 20, rough)
    assert object_bits(faint, disc)[disc].mean() < 0.5


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


def test_a_masks_neighbourhood_is_watched_and_no_more() -> None:
    assert list(compared_spans([5, 6, 60], 100)) == [range(19), range(48, 73)]
    assert list(compared_spans([5, 25, 49], 50)) == [range(50)]
    assert list(compared_spans([], 50)) == []


def test_changes_outside_the_mask_are_found(tmp_path: Path) -> None:
    frames = [pictures(index) for index in range(NUM_FRAMES)]
    paths = [str(tmp_path / name) for name in ("source.mp4", "good.mp4", "bad.mp4")]
    for path, kind in zip(paths, (0, 1, 1), strict=True):
        made = [frame[kind].clip(0, 255).astype(np.uint8) for frame in frames]
        if path.endswith("bad.mp4"):
            made[7][90:122, 4:36] += 12
        write_clip(path, made, rate=Fraction(25), crf=16)
    for path, least, most in ((paths[1], 0.0, 3.0), (paths[2], 8.0, 16.0)):
        whole = Box(0, 0, SIZE.width, SIZE.height)
        comparison = Comparison(
            source=paths[0],
            output=path,
            source_pts=packet_times(paths[0]),
            output_pts=packet_times(path),
            canvas=Canvas(size=SIZE, source=whole, kept=whole),
            num_frames=NUM_FRAMES,
            masks=lambda start, stop: {index: frames[index][2] for index in range(start, stop)},
            touched=(),
        )
        meter = Meter((0,), ())
        comparison.compare(range(NUM_FRAMES), meter)
        assert least <= meter.metrics()["outside"] <= most


def test_a_broken_container_fails_whatever_the_pixels_say(tmp_path: Path) -> None:
    source, short, late = (tmp_path / name for name in ("source.mp4", "short.mp4", "late.mp4"))
    make(source, Media(sounds=(Sound(),)))
    make(short, Media(num_frames=11))
    make(late, Media(sounds=(Sound(),), pts=[*range(11), 14]))
    contract = Contract(num_frames=12, size=Size(64, 48), times_kept=True)
    info = probe(str(source))
    assert container_faults(info, info, contract) == []
    assert container_faults(info, probe(str(short)), contract) == ["11 frames instead of 12", "0 of 1 sound tracks"]
    [late_by] = container_faults(info, probe(str(late)), contract)
    assert "0.120 s" in late_by
    verdict = judge({}, checks_of(JOB), QualitySettings(), ["11 frames instead of 12"])
    assert verdict.verdict == "fail" and "11 frames" in verdict.reasons[0]


def test_thresholds_make_the_verdict() -> None:
    settings = QualitySettings(seam=Threshold(review=3, fail=9))
    found = [judge({"seam": value}, ("seam",), settings) for value in (2.9, 3.0, 9.0)]
    assert [one.verdict for one in found] == ["pass", "review", "fail"]
    assert [one.rank for one in found] == sorted(one.rank for one in found)
    assert judge({"seam": 100.0}, ("gray",), settings).verdict == "pass"


def test_only_checks_that_mean_something_are_made() -> None:
    assert "residual" in checks_of(JOB)
    for task, some, none in (
        ("inpainting", "outside", "residual"),
        ("restyle", "flicker", "outside"),
        ("outpainting", "seam", "foreign"),
        ("t2v", "gray", "flicker"),
    ):
        checks = checks_of(replace(JOB, task=task))
        assert some in checks and none not in checks
    assert "outside" in checks_of(replace(JOB, task="composition"))
    assert "outside" not in checks_of(replace(JOB, task="composition", control="gray"))


def test_a_finished_clip_is_measured_once_and_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=6))
    job = replace(JOB, video_uri=str(path), boxes=(BoxKey(x=30, y=20, width=16, height=16),))
    works = works_of([job, replace(job, job_id="b")], str(tmp_path / "out"), Options(), str(tmp_path))
    for work in works:
        plan = prepare(work, MaskModels())
        assert plan.windows == ()  # a smooth ramp is bridged
        stitch(work, plan)
    [outcome] = workers.measure(MaskModels(), [Call(unit_id="measure/a", payload=(works[0], plan))])
    record: Any = outcome.meta
    assert record["checks"] and record["metrics"]["outside"] < 3 and record["broken"] == []
    assert measure(works[0], plan, MaskModels())["commit"] == record["commit"]

    Path(works[1].out, works[1].output).write_bytes(b"no video")
    record = measure(works[1], plan, MaskModels())
    verdict = verdict_of(record, QualitySettings())
    assert verdict.verdict == "review" and "could not be measured" in verdict.reasons[0]
    assert Ledger(works[1].out).done(works[1].clip_key) is not None
    assert check_records(works[0].out) == {"PrepRecord", "ClipRecord", "QualityRecord"}
