"""Three claims about VACE, on the embedded model through the real engine: PSNR inside the object's own mask.

    python benchmarks/claims.py [--clips 24]

neutral     what lies under the mask is neutral (0.0) or black (-1) when an object is removed
dilation    the mask is the object's own, or grown by one or two tokens (16 px), when an object is removed
reference   the reference is the subject's box, enlarged, or the whole frame, when a hidden subject is put back

Clips are procedural: drawn grounds under a still or panning camera, and a drawn object with a soft edge that rests or
moves; the same clips for every row of a claim. The differences' standard error tells which ones mean anything.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vace_batch.geometry import Box, Size  # noqa: E402
from vace_batch.vace.engine import VaceEngine  # noqa: E402
from vace_batch.vace.model import load  # noqa: E402
from vace_batch.vace.profiles import TINY, profile  # noqa: E402
from vace_batch.vace.training.clips import Clips  # noqa: E402
from vace_batch.vace.training.pictures import Pictures, draw  # noqa: E402
from vace_batch.vace.training.samples import passing_mask  # noqa: E402
from vace_batch.vcu.references import fit_reference  # noqa: E402
from vace_batch.vcu.tasks import WindowSettings, inpainting, removal  # noqa: E402
from vace_batch.vcu.unit import VCU, Mask, Pixels  # noqa: E402

SIZE, NUM_FRAMES, TOKEN_PX = Size(192, 128), 9, 16
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A clip with an object, the background behind it, and its mask."""

    seen: Pixels
    behind: Pixels
    mask: Mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    count = parser.parse_args().clips
    scenes = made_scenes(count)
    engine = VaceEngine(load(TINY, device="cpu"))
    neutral = [fill_gains(engine, scene, neutral=True) for scene in scenes]
    print("| claim | what | PSNR in the mask, dB | against the first |\n|---|---|---|---|")
    rows = {
        "neutral": {"neutral, 0.0": neutral, "black": [fill_gains(engine, s, neutral=False) for s in scenes]},
        "dilation": {
            "the object's own mask": neutral,
            "1 token": [fill_gains(engine, s, tokens=1) for s in scenes],
            "2 tokens": [fill_gains(engine, s, tokens=2) for s in scenes],
        },
        "reference": {
            "cropped to the subject": [refer_gains(engine, s, cropped=True) for s in scenes],
            "whole frame": [refer_gains(engine, s, cropped=False) for s in scenes],
            "none": [refer_gains(engine, s, cropped=None) for s in scenes],
        },
    }
    for claim, variants in rows.items():
        print_rows(claim, variants)


def print_rows(claim: str, variants: dict[str, list[float]]) -> None:
    """A line a variant: its mean, and its mean difference to the first with its standard error."""
    first = np.array(next(iter(variants.values())))
    for name, values in variants.items():
        difference = np.array(values) - first
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        against = "" if values is first or not difference.any() else f"{difference.mean():+.2f} +- {error:.2f}"
        print(f"| {claim} | {name} | {np.mean(values):.2f} | {against} |", flush=True)


def made_scenes(count: int) -> list[Scene]:
    """Scenes of pictures that nothing was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(12):
            picture = draw(400, 480, np.random.default_rng([7, number]))
            cv2.imwrite(str(Path(folder) / f"{number}.png"), ((picture + 1) * 127.5).astype(np.uint8))
        clips = Clips(Pictures(Path(folder)))
        return [made_scene(clips, np.random.default_rng([8, number])) for number in range(count)]


def made_scene(clips: Clips, generator: np.random.Generator) -> Scene:
    """Make one scene; the object's edge is soft, and its mask holds pixels covered by more than half."""
    behind = eight_bit(clips.clip(SIZE.height, SIZE.width, NUM_FRAMES, generator))
    mask = passing_mask(NUM_FRAMES, SIZE.height, SIZE.width, generator)
    alpha = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1.5) for frame in mask])[..., None]
    coat = eight_bit(draw(SIZE.height, SIZE.width, generator)[None])
    seen = (behind * (1 - alpha) + coat * alpha + 0.5).astype(np.uint8)
    return Scene(seen=seen, behind=behind, mask=mask)


def eight_bit(clip: Array) -> Pixels:
    """Convert -1..1 to 8 bits."""
    return np.asarray((clip + 1) * 127.5 + 0.5, np.uint8)


def fill_gains(engine: VaceEngine, scene: Scene, *, neutral: bool = True, tokens: int = 0) -> float:
    """Measure the PSNR of removals against the true background."""
    side = 2 * TOKEN_PX * tokens + 1
    grown = [cv2.dilate(frame.astype(np.uint8), np.ones((side, side), np.uint8)) > 0 for frame in scene.mask]
    vcu = removal(scene.seen, np.stack(grown), settings("removal"))
    if not neutral:
        dark = np.where(vcu.mask_THW[..., None], np.uint8(0), vcu.frames_THWC)
        vcu = replace(vcu, frames_THWC=dark, neutral_THW=np.zeros_like(vcu.mask_THW))
    return psnr(engine, vcu, scene.behind, scene.mask)


def refer_gains(engine: VaceEngine, scene: Scene, *, cropped: bool | None) -> float:
    """Measure the PSNR of the hidden subject with a reference from the first frame, and without a reference."""
    rows, columns = np.nonzero(scene.mask[0])
    box = Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    references: Sequence[Pixels] = ()
    if cropped is not None:
        references = [fit_reference(scene.seen[0], box if cropped else None, SIZE)]
    vcu = inpainting(scene.seen, scene.mask, settings("inpainting"), references=references)
    return psnr(engine, vcu, scene.seen, scene.mask)


def settings(task: str) -> WindowSettings:
    return WindowSettings(window_id=task, sampling=profile(TINY).sampling(task), negative_prompt="", seed=1)


def psnr(engine: VaceEngine, vcu: VCU, truth: Pixels, mask: Mask) -> float:
    """Measure the PSNR of the engine's frames for `vcu`, under `mask`."""
    made = engine.generate([vcu])[0].astype(np.float64)
    return float(10 * np.log10(255**2 / np.square(made - truth)[mask].mean()))


if __name__ == "__main__":
    main()
