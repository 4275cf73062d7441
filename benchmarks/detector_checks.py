"""Measure the two detector checks: is the object still found, and has a new object appeared?

    python benchmarks/detector_checks.py [--clips 24]

Drawn clips with an object of a class that the demo's detector knows, moving over a picture. Good outputs are the truth
and the truth with grain; bad ones the object left as it was, and an object of another class in its place. As in a run,
an object that the detector does not find in the source was never to be removed: such clips are left out and counted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recipes.demo_detector import CLASSES, HEIGHT, WIDTH, background, drawn
from vace_batch.demo.clips import detector_path
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Dilation, Job
from vace_batch.masks.models import MaskModels
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.options import QualitySettings
from vace_batch.quality.compare import Comparison
from vace_batch.quality.leftovers import detect_leftovers
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip

Image = Any
SIZE = Size(WIDTH, HEIGHT)
NUM_FRAMES = 12
KINDS = ("truth", "grain", "object left", "another object")
BAD = {"detected": "object left", "appeared": "another object"}
GOOD = {"detected": ("truth", "grain", "another object"), "appeared": ("truth", "grain", "object left")}


def clip(number: int) -> tuple[str, Mapping[str, Sequence[Image]], Sequence[Image], Mapping[int, FrameMask]]:
    """(class, outputs by kind, source, masks) of a drawn clip."""
    random = np.random.default_rng(1000 + number)
    kind, other = number % len(CLASSES), (number + 1) % len(CLASSES)
    ground = background(random).astype(np.float32)
    alpha, surface = _well_placed(kind, random)
    speed = random.uniform(-2, 2, 2)
    source: list[Image] = []
    masks: dict[int, FrameMask] = {}
    outputs: dict[str, list[Image]] = {name: [] for name in KINDS}
    lent = _well_placed(other, random)
    for index in range(NUM_FRAMES):
        here = _moved(alpha, speed * index)
        shown = _over(ground, _moved(surface.astype(np.float32), speed * index), here)
        mask = make_mask(index, here > 0.5)
        assert mask is not None
        masks[index] = dilate(mask, SIZE, Dilation(px=6.0))
        source.append(shown)
        noise = np.random.default_rng(index).normal(0, 2, ground.shape)
        made = (ground, ground + noise, shown, _pasted(ground, lent, masks[index].box))
        for name, frame in zip(KINDS, made, strict=True):
            outputs[name].append(np.clip(frame, 0, 255).astype(np.uint8))
    return CLASSES[kind], outputs, [frame.astype(np.uint8) for frame in source], masks


def _well_placed(kind: int, random: np.random.Generator) -> tuple[Image, Image]:
    while True:
        alpha, surface = drawn(kind, random)
        rows, columns = np.nonzero(alpha > 0.5)
        if 1200 < len(rows) < 15_000 and 30 < columns.min() and columns.max() < WIDTH - 30 and 25 < rows.min():
            if rows.max() < HEIGHT - 25:
                return alpha, surface


def _moved(image: Image, by: Any) -> Image:
    matrix = np.array([[1, 0, by[0]], [0, 1, by[1]]], np.float32)
    return cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)


def _over(below: Image, above: Image, alpha: Image) -> Image:
    return np.clip(above * alpha[..., None] + below * (1 - alpha[..., None]), 0, 255)


def _pasted(ground: Image, lent: tuple[Image, Image], box: Box) -> Image:
    """Paste another object, `lent`, at the size and place of the box."""
    alpha, surface = lent
    rows, columns = np.nonzero(alpha > 0.5)
    cut = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    inner = box.clip(SIZE)
    assert inner is not None
    made, size = ground.copy(), (inner.width, inner.height)
    weight = cv2.resize(alpha[cut], size)[..., None]
    made[inner.slices] = cv2.resize(surface[cut].astype(np.float32), size) * weight + made[inner.slices] * (1 - weight)
    return made


def shares(folder: Path, number: int) -> Iterator[tuple[str, dict[str, float]]]:
    """(kind of output, shares of the frames in which each check finds something); empty if the source is not found."""
    name, outputs, source, masks = clip(number)
    job = Job(job_id="a", video_uri="", task="removal", targets=(name,))
    write_clip(str(folder / "source.mp4"), source, rate=Fraction(25), crf=20)
    for kind in ("object left", *(kind for kind in KINDS if kind != "object left")):
        write_clip(str(folder / "output.mp4"), outputs[kind], rate=Fraction(25), crf=20)
        paths = {side: str(folder / f"{side}.mp4") for side in ("source", "output")}
        times, whole = packet_times(paths["source"]), Box(0, 0, WIDTH, HEIGHT)
        comparison = Comparison(
            **paths,
            source_pts=times,
            output_pts=times,
            canvas=Canvas(size=SIZE, source=whole, kept=whole),
            num_frames=NUM_FRAMES,
            masks=lambda start, stop: {index: masks[index] for index in range(start, stop)},
            touched=(),
        )
        found = detect_leftovers(job, comparison, sorted(masks), MaskModels(detector=str(detector_path())))
        if kind == "object left" and found["detected"] == 0:
            return
        yield kind, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    clips = parser.parse_args().clips
    rows: list[tuple[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        used = 0
        for number in range(clips):
            found = list(shares(Path(folder), number))
            used, rows = used + bool(found), rows + found
    print(f"{clips} clips, {used} of them with an object that the detector finds in the source\n")
    print("| check | found in bad outputs | found in good outputs | threshold |\n|---|---|---|---|")
    for check, bad in BAD.items():
        at = QualitySettings().threshold(check).review
        right = [numbers[check] >= at for kind, numbers in rows if kind == bad]
        wrong = [numbers[check] >= at for kind, numbers in rows if kind in GOOD[check]]
        print(f"| {check} | {sum(right)} of {len(right)} | {sum(wrong)} of {len(wrong)} | {at:g} |")


if __name__ == "__main__":
    main()
