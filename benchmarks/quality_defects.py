"""Make good outputs and every defect of the quality set: each maker takes a scene and a strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from benchmarks.quality_grounds import sprite
from benchmarks.quality_scenes import RgbImage, Scene
from vace_batch.geometry import Box
from vace_batch.manifest.job import FILE_DILATION
from vace_batch.masks.refine import dilate, feather_alpha
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.stitch.colour import drift

Image = Any
Fill = Callable[[int, Image, Image], Image]
"""Frame number, source and truth (H, W, 3) of levels -> what is painted into the mask."""

Masks = Mapping[int, FrameMask]

_RING_PX = 10


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
        frames.append(_samples(made * alpha + source * (1 - alpha)))
    return Made(scene=scene, frames=frames, masks=masks)


def _samples(levels: Image) -> RgbImage:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _random(scene: Scene, index: int = 0) -> np.random.Generator:
    return np.random.default_rng((len(scene.name), ord(scene.name[0]), ord(scene.name[1]), index))


def _truth(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: t)


def _grain(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: t + _random(scene, i).normal(0, strength, t.shape))


def _encoded(scene: Scene, strength: float) -> Made:
    """The truth after another lossy compression, of blocks, as a model's or an editor's picture may have."""

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
    """The background of some pixels beside, with the colours of the right place: in a texture as good as the truth."""
    if not any(
        word in scene.name.split(", ")[-1] for word in ("fine", "middle", "leaves", "grass", "gravel", "dark", "coarse")
    ):
        return None

    def fill(index: int, source: Image, truth: Image) -> Image:
        moved = np.roll(truth, (int(strength), int(strength)), axis=(0, 1))
        return moved + cv2.GaussianBlur(truth, (0, 0), 9) - cv2.GaussianBlur(moved, (0, 0), 9)

    return filled(scene, fill)


def _median(scene: Scene, strength: float) -> Made | None:
    """The median over time of the unmasked frames, where the camera stands still and each pixel is free sometimes."""
    stands = scene.camera and not np.any(scene.camera) and not scene.cuts
    if not stands:
        return None
    free = [np.ones(scene.source[0].shape[:2], np.bool_) for _ in scene.source]
    for index, mask in scene.masks.items():
        free[index] = ~mask.full(scene.size)
    if np.sum(free, axis=0).min() < 2:
        return None
    stack = np.ma.masked_array(np.stack(scene.source), ~np.repeat(np.stack(free)[..., None], 3, axis=-1))
    plate = np.ma.median(stack, axis=0).filled(0).astype(np.float32)
    return filled(scene, lambda i, s, t: plate)


def _wider_masks(scene: Scene, strength: float) -> Made:
    """The truth in masks that are wider than the object by some pixels."""
    wide = replace(FILE_DILATION, px=strength)
    return filled(scene, lambda i, s, t: t, {i: dilate(mask, scene.size, wide) for i, mask in scene.masks.items()})


def _left(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: strength * s + (1 - strength) * t + _random(scene, i).normal(0, 1, t.shape))


def _nothing_changed(scene: Scene, strength: float) -> Made:
    return Made(scene=scene, frames=scene.source, masks=scene.masks)


def _part_left(scene: Scene, strength: float) -> Made:
    """One side of the object is left: as much of the mask's box as `strength` says."""
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
    """The object is left in a row of frames: a share of the frames below 1, a number of frames from 1 on."""
    shown = sorted(scene.objects)
    count = round(strength if strength >= 1 else strength * len(shown))
    first = (len(shown) - count) // 2 if strength >= 1 else len(shown) - count
    kept = shown[first : first + count]
    return filled(scene, lambda i, s, t: s if i in kept else t)


def _mask_too_small(scene: Scene, strength: float) -> Made | None:
    """A rim of the object, so many pixels wide, is beside the mask; the fill takes on the colours of the rim."""
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
    """The mask lies beside the object, by a share of the object's width."""
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


def _gray(scene: Scene, strength: float) -> Made:
    """Plain gray in the upper part of each mask, or in the whole of it."""

    def fill(index: int, source: Image, truth: Image) -> Image:
        box, made = scene.masks[index].box, truth.copy()
        made[: round(box.y + box.height * strength)] = 128
        return made

    return filled(scene, fill)


def _inpainted(scene: Scene, strength: float, method: int) -> Made:
    """Spread the surroundings into the mask, as cv2.inpaint does: no texture."""

    def fill(index: int, source: Image, truth: Image) -> Image:
        mask = scene.masks[index]
        box = mask.box.pad(8).clip(scene.size)
        assert box is not None
        made = truth.copy()
        made[box.slices] = cv2.inpaint(
            source[box.slices].astype(np.uint8), mask.within(box).astype(np.uint8), 3, method
        )
        return made

    return filled(scene, fill)


def _ring(scene: Scene, mask: FrameMask, image: Image) -> Image:
    """The pixels (N, 3) of an image that lie beside a mask."""
    box = mask.box.pad(_RING_PX).clip(scene.size)
    assert box is not None
    bits = mask.within(box)
    pixels = image[box.slices][~bits]
    return pixels if len(pixels) else image[box.slices][bits]


def _mean_colour(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: np.broadcast_to(_ring(scene, scene.masks[i], s).mean(axis=0), t.shape))


def _blurred(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: cv2.GaussianBlur(t, (0, 0), strength))


def _colour_off(scene: Scene, strength: float) -> Made:
    sign = 1 if np.mean(scene.truth[0]) < 128 else -1
    return filled(scene, lambda i, s, t: t + sign * strength)


def _one_channel_off(scene: Scene, strength: float) -> Made:
    channel = len(scene.name) % 3
    sign = 1 if np.mean(scene.truth[0][..., channel]) < 128 else -1
    return filled(scene, lambda i, s, t: t + sign * strength * np.eye(3)[channel])


def _wrong_scale(scene: Scene, strength: float) -> Made:
    """The background's texture, enlarged: the right colours at the wrong scale."""
    matrix = np.array([[1 / strength, 0, 20], [0, 1 / strength, 20]])
    size, how = (scene.size.width, scene.size.height), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP

    def fill(index: int, source: Image, truth: Image) -> Image:
        made = cv2.warpAffine(truth, matrix, size, flags=how, borderMode=cv2.BORDER_REFLECT)
        return made + cv2.GaussianBlur(truth, (0, 0), 12) - cv2.GaussianBlur(made, (0, 0), 12)

    return filled(scene, fill)


def _foreign_texture(scene: Scene, strength: float) -> Made:
    """A texture that the background lacks, in the colours of the right place; it stands still in the picture."""
    noise = cv2.GaussianBlur(_random(scene).normal(0, 1, scene.truth[0].shape), (0, 0), strength)
    noise = noise / noise.std()

    def fill(index: int, source: Image, truth: Image) -> Image:
        smooth = cv2.GaussianBlur(truth, (0, 0), 8)
        return smooth + max(12.0, float(np.std(truth - smooth))) * noise

    return filled(scene, fill)


def _pasted(scene: Scene, strength: float) -> Made:
    """Another object, of the mask's size, that follows the mask."""
    random = _random(scene)
    shape = ("person", "disc", "blob")[len(scene.name) % 3]
    thing = sprite(shape, "texture", 64, scene.truth[0].astype(np.float32), random)

    def fill(index: int, source: Image, truth: Image) -> Image:
        box = scene.masks[index].box
        size, made = (box.width, box.height), truth.copy()
        weight = cv2.resize(thing.alpha, size, interpolation=cv2.INTER_AREA)[..., None]
        lent = cv2.resize(thing.rgb, size, interpolation=cv2.INTER_AREA)
        made[box.slices] = lent * weight + made[box.slices] * (1 - weight)
        return made

    return filled(scene, fill)


def _line_cut(scene: Scene, strength: float) -> Made | None:
    """A bar in the background is cut off where the mask is; the bar moves with the camera."""
    if not scene.camera or scene.cuts:
        return None
    barred, plain = replace(scene, source=list(scene.source), truth=list(scene.truth)), scene.truth
    box = scene.masks[sorted(scene.masks)[len(scene.masks) // 2]].box
    level = 40 if np.mean(scene.truth[0]) > 110 else 200
    middle = sorted(scene.masks)[len(scene.masks) // 2]
    for index, (source, truth) in enumerate(zip(scene.source, scene.truth, strict=True)):
        at = round(box.y + box.height / 2 - strength / 2 + scene.camera[index][1] - scene.camera[middle][1])
        rows = np.s_[max(0, at) : max(0, at + int(strength))]
        with_bar, under = truth.copy(), source.copy()
        with_bar[rows], under[rows] = level, level
        seen = scene.objects.get(index)
        under = under if seen is None else np.where(seen[..., None], source, under)
        barred.source[index], barred.truth[index] = under, with_bar  # type: ignore[index]
    return filled(barred, lambda i, s, t: plain[i].astype(np.float32))


def _flicker(scene: Scene, strength: float) -> Made:
    return filled(scene, lambda i, s, t: t + strength * (1 if i % 2 else -1))


def _colour_step(scene: Scene, strength: float) -> Made | None:
    frames = sorted(scene.masks)
    middle = frames[len(frames) // 3]
    if any(abs(middle - cut) < 2 for cut in scene.cuts):
        return None
    sign = 1 if np.mean(scene.truth[0]) < 128 else -1
    return filled(scene, lambda i, s, t: t + sign * strength * (i >= middle))


def _frozen(scene: Scene, strength: float) -> Made | None:
    """The fill keeps the picture of its first frame while the background moves."""
    if scene.camera and not np.any(scene.camera):
        return None
    first = scene.truth[min(scene.masks)].astype(np.float32)
    return filled(scene, lambda i, s, t: first)


def _hard_seam(scene: Scene, strength: float) -> Made:
    sign = 1 if np.mean(scene.truth[0]) < 128 else -1
    return filled(scene, lambda i, s, t: t + sign * strength, hard=True)


def _changed_outside(scene: Scene, strength: float) -> Made:
    """A place beside the mask is brighter."""
    made = filled(scene, lambda i, s, t: t)
    frames = []
    for index, frame in enumerate(made.frames):
        mask = scene.masks.get(index)
        right = mask is not None and mask.box.x + mask.box.width / 2 < scene.size.width / 2
        place = Box(scene.size.width - 36 if right else 4, 4, 32, 32)
        changed = frame.astype(np.float32)
        free = np.ones((32, 32), np.bool_) if mask is None else ~_near(mask, place)
        changed[place.slices] += strength * (1 if np.mean(frame) < 128 else -1) * free[..., None]
        frames.append(_samples(changed))
    return Made(scene=scene, frames=frames, masks=made.masks)


def _near(mask: FrameMask, place: Box) -> Any:
    return cv2.dilate(mask.within(place).view(np.uint8), np.ones((15, 15), np.uint8)).view(np.bool_)


Makers = Mapping[str, tuple[Maker, Sequence[float], int]]
"""Name (with the strength's place) -> maker, strengths, and of how many scenes one gets each strength."""

GOOD_MAKERS: Makers = {
    "truth": (_truth, (1,), 1),
    "grain, sigma {}": (_grain, (2,), 3),
    "another compression, quality {}": (_encoded, (80,), 3),
    "colours off by {} levels": (_slightly_off, (2,), 3),
    "other place, {} px beside": (_other_place, (5,), 1),
    "median over time": (_median, (1,), 2),
    "masks wider by {} px": (_wider_masks, (8,), 3),
}
THERE_MAKERS: Makers = {
    "left at {}%": (_left, (1.0, 0.6, 0.3, 0.2, 0.1), 3),
    "nothing changed": (_nothing_changed, (1,), 3),
    "part left, {}%": (_part_left, (0.5, 0.25), 4),
    "left in frames, {}": (_left_in_frames, (0.33, 3), 3),
    "mask too small, {} px": (_mask_too_small, (4, 8), 3),
    "mask beside, {}%": (_mask_shifted, (0.5, 0.2), 4),
    "mask drops out, {} frames": (_mask_drops_out, (3,), 3),
    "mask begins late, {} frames": (_mask_begins_late, (4,), 3),
    "mask ends early, {} frames": (_mask_ends_early, (4,), 3),
}
PAINTED_MAKERS: Makers = {
    "gray, {}% of the mask": (_gray, (1.0, 0.5), 5),
    "inpainted, Telea": (partial(_inpainted, method=cv2.INPAINT_TELEA), (1,), 4),
    "inpainted, NS": (partial(_inpainted, method=cv2.INPAINT_NS), (1,), 4),
    "mean colour": (_mean_colour, (1,), 3),
    "blur, sigma {}": (_blurred, (2, 3, 5), 5),
    "colour off, {} levels": (_colour_off, (8, 14, 25), 6),
    "one channel off, {} levels": (_one_channel_off, (8, 14, 25), 6),
    "wrong scale, times {}": (_wrong_scale, (3,), 3),
    "foreign texture, sigma {} px": (_foreign_texture, (1, 5), 5),
    "another object": (_pasted, (1,), 3),
    "line cut, {} px": (_line_cut, (8,), 2),
    "flicker, {} levels": (_flicker, (3, 6, 10), 6),
    "colour step, {} levels": (_colour_step, (6, 10), 5),
    "frozen": (_frozen, (1,), 1),
    "hard seam, {} levels": (_hard_seam, (8, 14, 20), 6),
    "changed outside, {} levels": (_changed_outside, (5, 10), 5),
}
