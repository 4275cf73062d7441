"""Measure an output of the quality set on the truth: the rest of the object, and the fidelity of the fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.quality_scenes import RgbImage, Scene
from vace_batch.masks.store import Bits

WORST_FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Numbers of one output, measured before encoding.

    `residue` is the share of (source - truth) in (output - truth) over the object's pixels, on average over the frames;
    `worst_quarter` the same of the quarter of the object that has most, and `worst_frames` of the three frames that
    have most. `contrast` is the mean difference of source and truth there, in levels. `psnr_db` is that of the changed
    pixels against the truth, `shift` the largest change of a channel's mean there, `outside` that of a block of 16 px
    elsewhere, in levels.
    """

    residue: float
    worst_quarter: float
    worst_frames: float
    contrast: float
    psnr_db: float
    shift: float
    outside: float


def measure(scene: Scene, frames: Sequence[RgbImage]) -> Measured:
    """Measure an output's frames (H, W, 3) against the truth of the scene."""
    shares, quarters, contrasts = [], [], []
    for index, bits in scene.objects.items():
        source, truth, output = (each[index].astype(np.float32) for each in (scene.source, scene.truth, frames))
        shares.append(share_left(source[bits], truth[bits], output[bits]))
        quarters.append([share_left(source[part], truth[part], output[part]) for part in _quarters(bits)])
        contrasts.append(float(np.abs(source[bits] - truth[bits]).mean()))
    psnr_db, shift, outside = _fidelity(scene, frames)
    return Measured(
        residue=float(np.mean(shares)),
        worst_quarter=float(np.mean(quarters, axis=0).max()),
        worst_frames=float(np.mean(sorted(shares)[-WORST_FRAMES:])),
        contrast=float(np.mean(contrasts)),
        psnr_db=psnr_db,
        shift=shift,
        outside=outside,
    )


def share_left(source: Any, truth: Any, output: Any) -> float:
    """Return the least-squares share of (source - truth) in (output - truth), all (N, 3).

    The truth's own structure is a second regressor: another background that lacks this structure shares it with
    (source - truth), and would else look like a part of the object.
    """
    if not len(source):
        return 0.0
    pattern = (truth - truth.mean(axis=0)).ravel()
    object_levels = (source - truth).ravel()
    columns = np.stack([object_levels, pattern], axis=1).astype(np.float64)
    if float(pattern.std()) < 1.0:
        columns = columns[:, :1]
    solved = np.linalg.lstsq(columns, (output - truth).ravel().astype(np.float64), rcond=1e-4)[0]
    return float(solved[0])


def _quarters(bits: Bits) -> Iterator[Bits]:
    """Split an object at its middle, across and down."""
    rows, columns = np.nonzero(bits)
    top = np.arange(bits.shape[0])[:, None] < np.median(rows)
    left = np.arange(bits.shape[1])[None] < np.median(columns)
    for half in (top, ~top):
        for side in (left, ~left):
            yield bits & half & side


def _fidelity(scene: Scene, frames: Sequence[RgbImage]) -> tuple[float, float, float]:
    """Measure PSNR and largest shift of colour in the masks, and the largest change of a block elsewhere."""
    squares, count, shift, outside = 0.0, 0, 0.0, 0.0
    for index, output in enumerate(frames):
        mask = scene.masks.get(index)
        bits = mask.full(scene.size) if mask is not None else np.zeros(output.shape[:2], np.bool_)
        if bits.any():
            off = output[bits].astype(np.float64) - scene.truth[index][bits]
            squares, count = squares + float((off**2).sum()), count + off.size
            shift = max(shift, float(np.abs(off.mean(axis=0)).max()))
        change = np.abs(output.astype(np.float32) - scene.source[index]).mean(axis=2) * ~bits
        rows, columns = (length // 16 * 16 for length in change.shape)
        blocks = change[:rows, :columns].reshape(rows // 16, 16, columns // 16, 16).mean(axis=(1, 3))
        outside = max(outside, float(blocks.max()))
    error = squares / count if count else 0.0
    return (min(99.0, 10 * float(np.log10(255**2 / error))) if error else 99.0), shift, outside
