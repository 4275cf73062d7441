"""Make the good outputs of the quality set, and the outputs in which the object is still there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.quality_fills import Image, Made, Makers, Masks, filled, random_of
from benchmarks.quality_scenes import Scene
from vace_batch.background.recover import recover
from vace_batch.geometry import Box
from vace_batch.manifest.job import FILE_DILATION
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.planning.windows import Shot
from vace_batch.stitch.colour import drift
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import write_clip


def _truth(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: t)


def _grain(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: t + random_of(scene, i).normal(0, strength, t.shape))


def _encoded(scene: Scene, strength: float) -> Made:
    """Compress the truth once more, in blocks, as a model's or an editor's picture may be."""

    def fill(index: int, source: Image, truth: Image) -> Image:
        coded = cv2.imencode(".jpg", truth[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None
        return decoded[..., ::-1].astype(np.float32)

    return filled(scene, fill)


def _slightly_off(scene: Scene, strength: float) -> Made:
    signs = np.array([1, -1, 1]) * (1 if len(scene.name) % 2 else -1)
    return filled(scene, lambda i, s, t: t + strength * signs)


def _other_place(scene: Scene, strength: float) -> Made | None:
    """Paint the background of a place beside, in the right place's colours: in a texture as good as the truth."""
    if not any(
        word in scene.name.split(", ")[-1] for word in ("fine", "middle", "leaves", "grass", "gravel", "dark", "coarse")
    ):
        return None

    def fill(index: int, source: Image, truth: Image) -> Image:
        moved = np.roll(truth, (int(strength), int(strength)), axis=(0, 1))
        return moved + cv2.GaussianBlur(truth, (0, 0), 9) - cv2.GaussianBlur(moved, (0, 0), 9)

    return filled(scene, fill)


def _median(scene: Scene, strength: float) -> Made | None:
    """Paint the median over time of the unmasked frames; needs a still camera, and each pixel free in some frames."""
    stands = scene.camera and not np.any(scene.camera) and not scene.cuts
    if not stands:
        return None
    free = [np.ones(scene.source[0].shape[:2], np.bool_) for _ in scene.source]
    for index, mask in scene.masks.items():
        free[index] = ~mask.full(scene.size)
    if np.sum(free, axis=0).min() < 2:
        return None
    seen = np.where(np.stack(free)[..., None], np.stack(scene.source).astype(np.float32), np.nan)
    plate = np.nanmedian(seen, axis=0)
    return filled(scene, lambda i, s, t: plate)


def _recovered(scene: Scene, strength: float) -> Made | None:
    """Recover the background as a run does, where other frames show at least `strength` of the masks' pixels."""
    if scene.cuts:
        return None
    fills: dict[int, tuple[Box, Image]] = {}
    known = total = 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "source.mp4")
        write_clip(path, scene.source, rate=Fraction(25), crf=20)
        shot = Shot(start=0, stop=len(scene.source))
        for each in recover(partial(read_frames, path), partial(_within, scene), shot, scene.size):
            known, total = known + int(each.known.sum()), total + int(scene.masks[each.index].bits.sum())
            fills[each.index] = each.box, each.rgb
    if len(fills) < len(scene.masks) or known < strength * total:
        return None

    def fill(index: int, source: Image, truth: Image) -> Image:
        box, rgb = fills[index]
        made = source.copy()
        made[box.slices] = rgb
        return made

    return filled(scene, fill)


def _within(scene: Scene, start: int, stop: int) -> dict[int, FrameMask]:
    return {index: scene.masks[index] for index in range(start, stop) if index in scene.masks}


def _wider_masks(scene: Scene, strength: float) -> Made:
    """Paint the truth into masks that are wider by `strength` pixels."""
    wide = replace(FILE_DILATION, px=strength)
    return filled(scene, lambda i, s, t: t, {i: dilate(mask, scene.size, wide) for i, mask in scene.masks.items()})


def _left(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: strength * s + (1 - strength) * t + random_of(scene, i).normal(0, 1, t.shape))


def _nothing_changed(scene: Scene, strength: float) -> Made:
    return Made(scene=scene, frames=scene.source, masks=scene.masks)


def _part_left(scene: Scene, strength: float) -> Made:
    """Leave one side of the object: the share `strength` of the mask's box."""
    side = len(scene.name) % 4

    def fill(index: int, source: Image, truth: Image) -> Image:
        box = scene.masks[index].box
        width, height = round(box.width * strength), round(box.height * strength)
        kept = (
            np.s_[box.y : box.y + box.height, box.x : box.x + width],
            np.s_[box.y : box.y + height, box.x : box.x + box.width],
            np.s_[box.y : box.y + box.height, box.x + box.width - width : box.x + box.width],
            np.s_[box.y + box.height - height : box.y + box.height, box.x : box.x + box.width],
        )[side]
        made = truth.copy()
        made[kept] = source[kept]
        return made

    return filled(scene, fill)


def _left_in_frames(scene: Scene, strength: float) -> Made:
    """Leave the object in a row of frames: a share of the frames below 1, a number of frames from 1 on."""
    shown = sorted(scene.objects)
    count = round(strength if strength >= 1 else strength * len(shown))
    first = (len(shown) - count) // 2 if strength >= 1 else len(shown) - count
    kept = shown[first : first + count]
    return filled(scene, lambda i, s, t: s if i in kept else t)


def _mask_too_small(scene: Scene, strength: float) -> Made | None:
    """Leave a rim of the object, `strength` pixels wide, beside the mask; the fill takes on the rim's colours."""
    masks = {}
    for index, bits in scene.objects.items():
        inward = cv2.distanceTransform(np.pad(bits, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        small = make_mask(index, inward > strength)
        if small is not None and small.bits.sum() > 50:
            masks[index] = small
    return filled(scene, partial(_fitted, scene, masks), masks) if len(masks) > len(scene.objects) // 2 else None


def _fitted(scene: Scene, masks: Masks, index: int, source: Image, truth: Image) -> Image:
    """Fit the truth's colours to the surroundings of the mask, as a run does."""
    return truth + drift(source, truth, ~masks[index].full(scene.size))


def _mask_shifted(scene: Scene, strength: float) -> Made | None:
    """Shift the mask beside the object, by a share of the object's width."""
    masks = {}
    for index, bits in scene.objects.items():
        columns = np.flatnonzero(bits.any(axis=0))
        by = max(3, round(strength * (columns[-1] + 1 - columns[0]))) * (1 if len(scene.name) % 2 else -1)
        moved = make_mask(index, np.roll(bits, by, axis=1))
        assert moved is not None
        masks[index] = dilate(moved, scene.size, FILE_DILATION)
    return filled(scene, partial(_fitted, scene, masks), masks)


def _without_masks(scene: Scene, dropped: Sequence[int]) -> Made:
    return filled(scene, lambda i, s, t: t, {i: mask for i, mask in scene.masks.items() if i not in dropped})


def _mask_drops_out(scene: Scene, strength: float) -> Made:
    shown = sorted(scene.objects)
    middle = len(shown) // 2
    return _without_masks(scene, shown[middle : middle + int(strength)])


def _mask_begins_late(scene: Scene, strength: float) -> Made:
    return _without_masks(scene, sorted(scene.objects)[: int(strength)])


def _mask_ends_early(scene: Scene, strength: float) -> Made:
    return _without_masks(scene, sorted(scene.objects)[-int(strength) :])


GOOD_MAKERS: Makers = {
    "truth": (_truth, (1,), 1),
    "grain, sigma {}": (_grain, (2,), 3),
    "another compression, quality {}": (_encoded, (80,), 3),
    "colours off by {} levels": (_slightly_off, (2,), 3),
    "other place, {} px beside": (_other_place, (5,), 2),
    "median over time": (_median, (1,), 4),
    "recovered, {}% known": (_recovered, (0.98,), 7),
    "masks wider by {} px": (_wider_masks, (8,), 3),
}
THERE_MAKERS: Makers = {
    "left at {}%": (_left, (1.0, 0.6, 0.3, 0.2, 0.1), 3),
    "nothing changed": (_nothing_changed, (1,), 3),
    "part left, {}%": (_part_left, (0.5, 0.25), 6),
    "left in frames, {}": (_left_in_frames, (0.33, 3), 5),
    "mask too small, {} px": (_mask_too_small, (4, 8), 5),
    "mask beside, {}%": (_mask_shifted, (0.5, 0.2), 6),
    "mask drops out, {} frames": (_mask_drops_out, (3,), 3),
    "mask begins late, {} frames": (_mask_begins_late, (4,), 3),
    "mask ends early, {} frames": (_mask_ends_early, (4,), 3),
}
