"""Paint into the masks of a scene: the frame of every output of the quality set."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.quality_scenes import RgbImage, Scene
from vace_batch.masks.refine import feather_alpha
from vace_batch.masks.store import FrameMask

Image = Any
Fill = Callable[[int, Image, Image], Image]
"""Frame number, source and truth (H, W, 3) of levels -> what is painted into the mask."""

Masks = Mapping[int, FrameMask]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Frames of an output, the masks of its run, and its scene: the one asked for, or a variant of that scene."""

    scene: Scene
    frames: Sequence[RgbImage]
    masks: Masks


Maker = Callable[[Scene, float], Made | None]
"""Scene and strength -> an output, or None where the defect makes no sense in the scene."""


def filled(scene: Scene, fill: Fill, masks: Masks | None = None, *, hard: bool = False) -> Made:
    """Paint `fill` into the masks of each source frame, feathered unless `hard`."""
    masks = scene.masks if masks is None else masks
    frames = []
    for index, (source, truth) in enumerate(zip(scene.source, scene.truth, strict=True)):
        mask = masks.get(index)
        if mask is None:
            frames.append(source)
            continue
        bits = mask.full(scene.size)
        alpha = (bits.astype(np.float32) if hard else feather_alpha(bits, 2))[..., None]
        made = fill(index, source.astype(np.float32), truth.astype(np.float32))
        frames.append(samples(made * alpha + source * (1 - alpha)))
    return Made(scene=scene, frames=frames, masks=masks)


def samples(levels: Image) -> RgbImage:
    """Round levels to 8-bit samples."""
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def random_of(scene: Scene, index: int = 0) -> np.random.Generator:
    """Make the random numbers of one frame of a scene; the same ones in every run."""
    return np.random.default_rng((zlib.crc32(scene.name.encode()), index))


Makers = Mapping[str, tuple[Maker, Sequence[float], int]]
"""Name (with the strength's place) -> maker, strengths, and of how many scenes one gets each strength."""
