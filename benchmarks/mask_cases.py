"""Measure how much of true objects the masks cover when a detector drops, shakes and invents detections.

    python benchmarks/mask_cases.py CASES [--drop 0.1] [--jitter 5] [--false 0.02] [--seed 0]

Each folder of CASES has `case.json` (width, height, n_frames, cuts, frames) and mask.mkv, or a mask_objN.mkv an object.
The detector is replaced by the truth with noise: `masks` gives true outlines that are moved as a whole, `boxes` true
boxes whose edges each move on their own; tracking, filling, voting and dilation are those of a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.detection import DEFAULT_CONFIDENCE, LEAST_CONFIDENCE
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.refine import refine
from vace_batch.masks.store import FrameMask, PackedMask, box_mask, make_mask, merge_masks
from vace_batch.masks.tracking.objects import Sighting, track_shot
from vace_batch.masks.tracking.smoothing import SmoothedObject

COLUMNS = ("case", "detector", "frames", "IoU", "covered", "least", "full", "surplus", "objects")


class Noise:
    """Drops, shakes and invents detections."""

    def __init__(self, arguments: argparse.Namespace, size: Size) -> None:
        self.random = np.random.default_rng(arguments.seed)
        self.drop, self.jitter, self.false = arguments.drop, arguments.jitter, arguments.false
        self.size = size

    def seen(self, mask: FrameMask, label: str, as_boxes: bool) -> Sighting | None:
        """A true mask as a detector might see it."""
        if self.random.random() < self.drop:
            return None
        left, top, right, bottom = self.random.integers(-self.jitter, self.jitter + 1, 4)
        box = mask.box
        if as_boxes:
            box = Box(box.x + left, box.y + top, max(box.width + right - left, 2), max(box.height + bottom - top, 2))
            inside = box.clip(self.size)
            made = None if inside is None else box_mask(mask.index, inside)
        else:
            there = box.shift(int(left), int(top))
            inside = there.clip(self.size)
            if inside is None:
                return None
            bits = mask.bits[inside.shift(-there.x, -there.y).slices]
            made = make_mask(mask.index, bits, (inside.x, inside.y))
        return None if made is None else self._sighting(made, label)

    def invented(self, index: int, label: str) -> Sighting | None:
        """Now and then, a box where nothing is."""
        if self.random.random() >= self.false:
            return None
        width, height = (int(value) for value in self.random.integers(20, 120, 2))
        x = int(self.random.integers(0, self.size.width - width))
        y = int(self.random.integers(0, self.size.height - height))
        return self._sighting(box_mask(index, Box(x, y, width, height)), label)

    def _sighting(self, mask: FrameMask, label: str) -> Sighting:
        confidence = float(self.random.uniform(0.3, 0.95))
        return Sighting(index=mask.index, label=label, confidence=confidence, box=mask.box, mask=PackedMask.of(mask))


def measure(folder: Path, as_boxes: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: means over the frames that show an object."""
    case = json.loads((folder / "case.json").read_text())
    size, num_frames = Size(case["width"], case["height"]), case["n_frames"]
    noise = Noise(arguments, size)
    files = sorted(folder.glob("mask_obj*.mkv")) or [folder / "mask.mkv"]
    labels = [one["label"] for one in case["objects"]]
    truth: dict[int, list[FrameMask]] = {}
    sightings = []
    for file, label in zip(files, labels, strict=False):
        for mask in read_masks(str(file), size, num_frames):
            truth.setdefault(mask.index, []).append(mask)
            sightings.append(noise.seen(mask, label, as_boxes))
    sightings += [noise.invented(index, labels[0]) for index in range(num_frames)]
    edges = [0, *case["cuts"], num_frames]
    made: dict[int, list[FrameMask]] = {}
    count = 0
    for start, stop in zip(edges, edges[1:], strict=False):
        seen = [one for one in sightings if one is not None and start <= one.index < stop]
        tracked = track_shot(seen, (start, stop), sure=DEFAULT_CONFIDENCE, unsure=LEAST_CONFIDENCE)
        count += len(tracked)
        for track in tracked:
            steady = SmoothedObject(track.sightings, (start, stop), size)
            for index in range(steady.start, steady.stop):
                if (mask := steady.at(index)) is not None:
                    made.setdefault(index, []).append(mask)
    rows = [_frame(truth.get(index, []), made.get(index, []), size) for index in range(num_frames)]
    shown = [row for row in rows if row is not None]
    least = min(row[1] for row in shown)
    return {
        "case": folder.name,
        "detector": "boxes" if as_boxes else "masks",
        "frames": len(shown),
        "IoU": f"{np.mean([row[0] for row in shown]):.3f}",
        "covered": f"{np.mean([row[1] for row in shown]):.2%}",
        "least": f"{least:.2%}",
        "full": f"{sum(row[1] == 1 for row in shown)}/{len(shown)}",
        "surplus": f"{np.mean([row[2] for row in shown]):.2f}",
        "objects": f"{count} of {len(files) * (len(edges) - 1)}",
    }


def _frame(truth: list[FrameMask], made: list[FrameMask], size: Size) -> tuple[float, float, float] | None:
    """Return IoU before dilation, the covered share after dilation, and the surplus as a share of the object's area."""
    true, raw = merge_masks(truth), merge_masks(made)
    if true is None:
        return None
    target = true.full(size)
    before = np.zeros_like(target) if raw is None else raw.full(size)
    final = refine(made, size)
    after = np.zeros_like(target) if final is None else final.full(size)
    area = target.sum()
    iou = (before & target).sum() / (before | target).sum()
    return float(iou), float((after & target).sum() / area), float((after & ~target).sum() / area)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--jitter", type=int, default=5)
    parser.add_argument("--false", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for folder in sorted(path.parent for path in arguments.cases.glob("*/case.json")):
        for as_boxes in (False, True):
            row = measure(folder, as_boxes, arguments)
            print("| " + " | ".join(str(row[name]) for name in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
