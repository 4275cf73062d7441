"""Textured clips, and how far a rewritten clip is from its source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import write_clip


def same(_: Frame) -> None:
    pass


def psnr(one: str, other: str) -> float:
    errors = [
        np.square(a.rgb().astype(float) - b.rgb()).mean()
        for a, b in zip(read_frames(one), read_frames(other), strict=True)
    ]
    return float(10 * np.log10(255**2 / (np.mean(errors) + 1e-9)))


def textured(path: Path, crf: int, width: int = 320, num_frames: int = 24, noise: float = 4) -> str:
    """Make frames of a texture that glides over another texture, with a little noise in each frame."""
    rng, height = np.random.default_rng(1), 128
    coarse = rng.integers(30, 220, (height // 8 + 1, width // 8 + num_frames, 3))
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    frames = (
        np.clip(texture[:height, 3 * n : 3 * n + width] + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(
            np.uint8
        )
        for n in range(num_frames)
    )
    write_clip(str(path), frames, rate=Fraction(25), crf=crf)
    return str(path)
