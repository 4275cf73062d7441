"""Measure thresholds of the quality checks on good and deliberately bad outputs of clips with a known truth.

    python benchmarks/quality.py DATA [--ours FOLDER] [--only NAME,...] [--list]

Each folder of DATA has case.json, input.*, gt.* (the clip without the object) and mask.mkv; synthetic clips are made on
the spot. Twenty frames of each, cut out round the object, are encoded once as source and then as good outputs (the
truth, the truth with grain) and with one defect each. FOLDER has what a run made of the cases, as <case>.mp4: these are
measured as they are. The clips are split in two halves: thresholds are chosen on one and tried on the other, then the
other way round; beside that stand the thresholds of the package.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vace_batch.geometry import Box, Size, union_of
from vace_batch.manifest.job import FILE_DILATION, Job
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.refine import dilate, feather_alpha
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.options import QualitySettings
from vace_batch.quality.compare import Comparison
from vace_batch.quality.meter import Meter
from vace_batch.quality.verdict import checks_of, judge
from vace_batch.stitch.colour import drift
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.probe import probe
from vace_batch.video.reader import packet_times, read_frames
from vace_batch.video.writer import write_clip

Image = Any
Fill = Callable[[int, Image, Image], Image]
"""Frame number, source and truth (H, W, 3) -> what is pasted into the mask."""

REMOVAL = checks_of(Job(job_id="", video_uri="", task="removal"))
CHECKS = [name for name in REMOVAL if name not in ("detected", "appeared")]
GOOD = ("truth", "grain", "ours")
# What each defect must be found by, one of these.
DEFECTS: Mapping[str, tuple[str, ...]] = {
    "object left at 100%": ("residual",),
    "object left at 30%": ("residual",),
    "object left in a third of the frames": ("residual",),
    "gray fill": ("gray",),
    "hard seam, 14 levels": ("seam",),
    "flicker, 6 levels": ("flicker",),
    "blur, sigma 3": ("blur",),
    "colour step, 10 levels": ("step",),
    "outside changed, 10 levels": ("outside",),
    "another object pasted": ("foreign", "seam"),
    "frozen fill": ("flicker", "seam"),
    "mask 4 px too small": ("uncovered",),
}


NUM_FRAMES = 20
_MARGIN_PX = 40
_CRF = 20


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Some frames of a case, cut out; masks are dilated as a run's are."""

    name: str
    source: Sequence[Image]
    truth: Sequence[Image]
    masks: Mapping[int, FrameMask]
    cuts: tuple[int, ...]
    moves: bool

    @property
    def size(self) -> Size:
        return Size(self.truth[0].shape[1], self.truth[0].shape[0])


def _true_masks(folder: Path, case: Mapping[str, Any]) -> dict[int, FrameMask]:
    size = Size(case["width"], case["height"])
    name = "mask_full.mkv" if (folder / "mask_full.mkv").exists() else "mask.mkv"
    found = read_masks(str(folder / name), size, case["n_frames"])
    return {mask.index: dilate(mask, size, FILE_DILATION) for mask in found}


def cases(data: Path, only: Sequence[str] | None) -> Iterator[Clip]:
    """Yield the clips of DATA: frames from the middle of the masked range."""
    for folder in sorted(path.parent for path in data.glob("*/case.json")):
        if only is not None and folder.name not in only:
            continue
        case = json.loads((folder / "case.json").read_text())
        masks = _true_masks(folder, case)
        masked = sorted(masks)
        start = max(0, masked[len(masked) // 2] - NUM_FRAMES // 2)
        stop = min(case["n_frames"], start + NUM_FRAMES)
        inside = [masks[index] for index in range(start, stop) if index in masks]
        box = union_of(mask.box for mask in inside)
        assert box is not None
        box = _even(box.pad(_MARGIN_PX), Size(case["width"], case["height"]))
        names = (str(next(folder.glob(f"{name}.*"))) for name in ("input", "gt"))
        source, truth = ([frame.rgb(box) for frame in read_frames(name, start, stop)] for name in names)
        yield Clip(
            name=folder.name,
            source=source,
            truth=truth,
            masks={
                mask.index - start: replace(mask, index=mask.index - start, box=mask.box.shift(-box.x, -box.y))
                for mask in inside
            },
            cuts=tuple(cut - start for cut in case["cuts"]),
            moves="pan" in " ".join(case["features"]),
        )


def _even(box: Box, size: Size) -> Box:
    """Inside the frame, with even sides."""
    inside = box.clip(size)
    assert inside is not None
    return Box(inside.x, inside.y, inside.width // 2 * 2, inside.height // 2 * 2)


def synthetic(number: int) -> Clip:
    """A drawn clip: textured background that pans or stands, a disc or a box with a pattern that crosses it."""
    random, size = np.random.default_rng(number), Size(288, 192)
    noise = random.uniform(0, 255, (260, 560, 3)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 1.2)
    coarse = cv2.GaussianBlur(noise, (0, 0), 12.0)
    ground = 60 + number * 12 + (fine - 127) * (0.25 + 0.2 * (number % 3)) + (coarse - 127) * 4
    ground[:, :, number % 3] += np.linspace(-30, 30, 560)
    speed, masks, sources, truths = (0, 0, 2)[number % 3], {}, [], []
    y, x = np.mgrid[0 : size.height, 0 : size.width]
    colour = random.uniform(0, 255, 3)
    for index in range(NUM_FRAMES):
        truth = np.clip(ground[30 : 30 + size.height, 40 + speed * index : 40 + speed * index + size.width], 0, 255)
        at_x, at_y = 90 + (5 - 3 * (number % 2)) * index * (number % 4 != 3), 96 + 20 * np.sin(index / 6)
        if number % 2:
            bits = (np.abs(x - at_x) < 30) & (np.abs(y - at_y) < 38)
        else:
            bits = (x - at_x) ** 2 + (y - at_y) ** 2 < 34**2
        pattern = colour + 40 * np.sin((x - at_x) / 4)[..., None]
        truths.append(truth.astype(np.uint8))
        sources.append(np.where(bits[..., None], np.clip(pattern, 0, 255), truth).astype(np.uint8))
        mask = make_mask(index, bits)
        assert mask is not None
        masks[index] = dilate(mask, size, FILE_DILATION)
    return Clip(name=f"synthetic{number}", source=sources, truth=truths, masks=masks, cuts=(), moves=speed > 0)


def fills(clip: Clip, other: Clip) -> Iterator[tuple[str, Fill]]:
    """Every good and bad fill of a clip, by its name; `other` lends the object that is pasted."""
    frames = sorted(clip.masks)
    middle = frames[len(frames) // 3]
    late = frames[2 * len(frames) // 3]

    def random(index: int) -> Any:
        return np.random.default_rng(index)

    yield "truth", lambda i, s, t: t
    yield "grain", lambda i, s, t: t + random(i).normal(0, 2, t.shape)
    yield "object left at 100%", lambda i, s, t: s
    yield "object left at 30%", lambda i, s, t: 0.3 * s + 0.7 * t
    yield "object left in a third of the frames", lambda i, s, t: s if i >= late else t
    yield "gray fill", lambda i, s, t: np.full_like(t, 128)
    yield "hard seam, 14 levels", lambda i, s, t: t + 14
    yield "flicker, 6 levels", lambda i, s, t: t + (6 if i % 2 else -6) + random(i).normal(0, 2)
    yield "blur, sigma 3", lambda i, s, t: cv2.GaussianBlur(t, (0, 0), 3)
    if not any(abs(middle - cut) < 2 for cut in clip.cuts):
        yield "colour step, 10 levels", lambda i, s, t: t + 10 * (i >= middle)
    yield "another object pasted", _pasted(clip, other)
    if clip.moves:
        first = clip.truth[frames[0]].astype(np.float32)
        yield "frozen fill", lambda i, s, t: first


def _pasted(clip: Clip, other: Clip) -> Fill:
    index = sorted(other.masks)[len(other.masks) // 2]
    mask = other.masks[index]
    box = mask.box.clip(other.size)
    assert box is not None
    lent, alpha = other.source[index][box.slices].astype(np.float32), mask.within(box).astype(np.float32)

    def paste(index: int, source: Image, truth: Image) -> Image:
        box = clip.masks[index].box
        size, there = (box.width, box.height), truth[box.slices]
        weight = cv2.resize(alpha, size)[..., None]
        made = truth.copy()
        made[box.slices] = cv2.resize(lent, size) * weight + there * (1 - weight)
        return made

    return paste


def filled(clip: Clip, fill: Fill, *, hard: bool) -> Iterator[Image]:
    """The clip's frames with `fill` in their masks, feathered unless `hard`."""
    for index, (source, truth) in enumerate(zip(clip.source, clip.truth, strict=True)):
        mask = clip.masks.get(index)
        if mask is None:
            yield source
            continue
        bits = mask.full(clip.size)
        alpha = (bits.astype(np.float32) if hard else feather_alpha(bits, 2))[..., None]
        made = np.clip(fill(index, source.astype(np.float32), truth.astype(np.float32)), 0, 255)
        yield np.rint(made * alpha + source * (1 - alpha)).astype(np.uint8)


def too_small(clip: Clip) -> Clip:
    """Shrink the clip's masks to 4 px inside the object all round; a frame left with too small a mask loses it."""
    masks = {}
    for index, mask in clip.masks.items():
        inward = cv2.distanceTransform(mask.full(clip.size).astype(np.uint8), cv2.DIST_L2, 5)
        small = make_mask(index, inward > (FILE_DILATION.px or 0) + 4)
        if small is not None and small.bits.sum() > 50:
            masks[index] = small
    return replace(clip, masks=masks)


def fitted(clip: Clip) -> Fill:
    """Fit the truth's colours to the surroundings of the mask, as a run does."""

    def fill(index: int, source: Image, truth: Image) -> Image:
        return truth + drift(source, truth, ~clip.masks[index].full(clip.size))

    return fill


def changed_outside(clip: Clip) -> Iterator[Image]:
    """The truth, and a place beside the mask that is 10 levels brighter."""
    for index, frame in enumerate(filled(clip, lambda i, s, t: t, hard=False)):
        mask, made = clip.masks.get(index), frame.astype(int)
        right = mask is not None and mask.box.x + mask.box.width / 2 < clip.size.width / 2
        place = Box(clip.size.width - 36 if right else 4, 4, 32, 32)
        free = np.ones((32, 32), np.bool_) if mask is None else ~_near(mask, place)
        made[place.slices] += 10 * free[..., None]
        yield np.clip(made, 0, 255).astype(np.uint8)


def _near(mask: FrameMask, place: Box) -> Any:
    return cv2.dilate(mask.within(place).view(np.uint8), np.ones((9, 9), np.uint8)).view(np.bool_)


def metrics_of(source: str, output: str, masks: Mapping[int, FrameMask], cuts: Sequence[int]) -> dict[str, float]:
    """Measure the metrics of the checks on one output."""
    info = probe(source)
    times = packet_times(source)
    whole = Box(0, 0, info.size.width, info.size.height)
    comparison = Comparison(
        source=source,
        output=output,
        source_pts=times,
        output_pts=packet_times(output),
        canvas=Canvas(size=info.size, source=whole, kept=whole),
        num_frames=len(times),
        masks=lambda start, stop: {index: masks[index] for index in range(start, stop) if index in masks},
        touched=(),
    )
    meter = Meter(cuts, ())
    comparison.compare(sorted(masks), meter)
    return meter.metrics()


Row = tuple[str, str, dict[str, float]]


def measure_all(clips: Sequence[Clip], folder: Path) -> Iterator[Row]:
    """Yield (clip, kind of output, metrics) of every output."""
    for number, clip in enumerate(clips):
        other = clips[(number + len(clips) // 2) % len(clips)]
        source, output = str(folder / "source.mp4"), str(folder / "output.mp4")
        write_clip(source, clip.source, rate=Fraction(25), crf=_CRF)
        made = {name: filled(clip, fill, hard="seam" in name) for name, fill in fills(clip, other)}
        made["outside changed, 10 levels"] = changed_outside(clip)
        small = too_small(clip)
        if small.masks:
            made["mask 4 px too small"] = filled(small, fitted(small), hard=False)
        for name, frames in made.items():
            write_clip(output, frames, rate=Fraction(25), crf=_CRF)
            masks = small.masks if "too small" in name else clip.masks
            yield clip.name, name, metrics_of(source, output, masks, clip.cuts)


def measure_ours(data: Path, ours: Path) -> Iterator[Row]:
    """Yield the same rows for the outputs that a run made of the cases."""
    for folder in sorted(path.parent for path in data.glob("*/case.json")):
        case = json.loads((folder / "case.json").read_text())
        source = str(next(folder.glob("input.*")))
        for output in ours.glob(f"{folder.name}.*"):
            yield folder.name, "ours", metrics_of(source, str(output), _true_masks(folder, case), case["cuts"])


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> float:
    """Choose the threshold with the fewest outputs on the wrong side; among equals, the middle of the gap."""
    values = sorted({0.0, *good, *bad})
    places = [(a + b) / 2 for a, b in zip(values, values[1:], strict=False)] or [1.0]
    wrong = [sum(v >= at for v in good) * 2 + sum(v < at for v in bad) for at in places]
    least = [at for at, count in zip(places, wrong, strict=True) if count == min(wrong)]
    return least[len(least) // 2]


def table(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Precision and recall of each check by halves of the clips, and with the package's settings."""
    names = sorted({clip for clip, _, _ in rows})
    halves = (set(names[::2]), set(names[1::2]))
    yield "| check | threshold from half A / half B | other half: precision | recall | settings | precision | recall |"
    yield "|" + "---|" * 7
    for check in CHECKS:
        meant = [defect for defect, by in DEFECTS.items() if by[0] == check]
        good = [(clip, n.get(check, 0.0)) for clip, what, n in rows if what in GOOD]
        bad = [(clip, n.get(check, 0.0)) for clip, what, n in rows if what in meant]
        chosen, hits = [], np.zeros(3, int)
        for mine, others in (halves, halves[::-1]):
            at = best_threshold([v for c, v in good if c in mine], [v for c, v in bad if c in mine])
            chosen.append(at)
            hits += _hits([v for c, v in good if c in others], [v for c, v in bad if c in others], at)
        own = settings.threshold(check).review
        said = _hits([v for _, v in good], [v for _, v in bad], own)
        yield f"| {check} | {chosen[0]:.2f} / {chosen[1]:.2f} | {_said(hits)} | {own:g} | {_said(said)} |"


def _hits(good: Sequence[float], bad: Sequence[float], at: float) -> Any:
    """(found and bad, found, bad)."""
    right = sum(value >= at for value in bad)
    return np.array([right, right + sum(value >= at for value in good), len(bad)])


def _said(hits: Any) -> str:
    right, found, bad = (int(value) for value in hits)
    return " | ".join(f"{right}/{of} ({right / of:.0%})" if of else "none" for of in (found, bad))


def verdicts(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Yield the lines of a table: how often each kind of output passes."""
    yield "| output | clips | pass | review | fail | most frequent reason |\n|---|---|---|---|---|---|"
    for kind in (*GOOD, *DEFECTS):
        judged = [judge(metrics, REMOVAL, settings) for _, made, metrics in rows if made == kind]
        verdicts_of_kind = [one.verdict for one in judged]
        reasons = [one.reasons[0].split(",")[0].split(":")[0] for one in judged if one.reasons]
        often = max(set(reasons), key=reasons.count) if reasons else ""
        often = "".join(c for c in often if not c.isdigit()).replace("% ", "")
        yield (
            f"| {kind} | {len(judged)} | "
            + " | ".join(str(verdicts_of_kind.count(word)) for word in ("pass", "review", "fail"))
            + f" | {often} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ours", type=Path, help="what a run made of DATA, by name")
    parser.add_argument("--only", help="names of clips, with commas between")
    parser.add_argument("--list", action="store_true", help="print every number too")
    arguments = parser.parse_args()
    started = time.monotonic()
    only = arguments.only.split(",") if arguments.only else None
    clips = [*cases(arguments.data, only), *(synthetic(number) for number in range(6))]
    clips = [clip for clip in clips if only is None or clip.name in only]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = measure_all(clips, Path(folder))
        for row in chain(made, measure_ours(arguments.data, arguments.ours) if arguments.ours else ()):
            rows.append(row)
            if arguments.list:
                print(row[0], "|", row[1], "|", " ".join(f"{k}={v:.3f}" for k, v in row[2].items()), flush=True)
    settings = QualitySettings()
    print(*table(rows, settings), "", *verdicts(rows, settings), sep="\n")
    print(f"\n{len(clips)} clips, {len(rows)} outputs, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
