"""Make the outputs of the quality set in which the fill is badly painted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from benchmarks.quality_fills import Image, Made, Makers, filled, random_of, samples
from benchmarks.quality_grounds import sprite
from benchmarks.quality_scenes import Scene
from vace_batch.geometry import Box
from vace_batch.masks.store import FrameMask

_RING_PX = 10


def _gray(scene: Scene, strength: float) -> Made:
    """Paint plain gray into the upper share `strength` of each mask."""

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
    """Select the pixels (N, 3) of an image beside a mask."""
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
    """Enlarge the background's texture: the right colours at the wrong scale."""
    matrix = np.array([[1 / strength, 0, 20], [0, 1 / strength, 20]])
    size, how = (scene.size.width, scene.size.height), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP

    def fill(index: int, source: Image, truth: Image) -> Image:
        made = cv2.warpAffine(truth, matrix, size, flags=how, borderMode=cv2.BORDER_REFLECT)
        return made + cv2.GaussianBlur(truth, (0, 0), 12) - cv2.GaussianBlur(made, (0, 0), 12)

    return filled(scene, fill)


def _foreign_texture(scene: Scene, strength: float) -> Made:
    """Paint a texture that the background lacks, in the right place's colours; the texture stands still."""
    noise = cv2.GaussianBlur(random_of(scene).normal(0, 1, scene.truth[0].shape), (0, 0), strength)
    noise = noise / noise.std()

    def fill(index: int, source: Image, truth: Image) -> Image:
        smooth = cv2.GaussianBlur(truth, (0, 0), 8)
        return smooth + max(12.0, float(np.std(truth - smooth))) * noise

    return filled(scene, fill)


def _pasted(scene: Scene, strength: float) -> Made:
    """Paste another object, of the mask's size, that follows the mask."""
    random = random_of(scene)
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
    """Cut off a bar of the background at the mask; the bar moves with the camera."""
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
    """Keep the picture of the first masked frame in the fill while the background moves."""
    if scene.camera and not np.any(scene.camera):
        return None
    first = scene.truth[min(scene.masks)].astype(np.float32)
    return filled(scene, lambda i, s, t: first)


def _hard_seam(scene: Scene, strength: float) -> Made:
    sign = 1 if np.mean(scene.truth[0]) < 128 else -1
    return filled(scene, lambda i, s, t: t + sign * strength, hard=True)


def _changed_outside(scene: Scene, strength: float) -> Made:
    """Brighten or darken a place beside the mask."""
    made = filled(scene, lambda i, s, t: t)
    frames = []
    for index, frame in enumerate(made.frames):
        mask = scene.masks.get(index)
        right = mask is not None and mask.box.x + mask.box.width / 2 < scene.size.width / 2
        place = Box(scene.size.width - 36 if right else 4, 4, 32, 32)
        changed = frame.astype(np.float32)
        free = np.ones((32, 32), np.bool_) if mask is None else ~_near(mask, place)
        changed[place.slices] += strength * (1 if np.mean(frame) < 128 else -1) * free[..., None]
        frames.append(samples(changed))
    return Made(scene=scene, frames=frames, masks=made.masks)


def _near(mask: FrameMask, place: Box) -> Any:
    return cv2.dilate(mask.within(place).view(np.uint8), np.ones((15, 15), np.uint8)).view(np.bool_)


PAINTED_MAKERS: Makers = {
    "gray, {}% of the mask": (_gray, (1.0, 0.5), 6),
    "inpainted, Telea": (partial(_inpainted, method=cv2.INPAINT_TELEA), (1,), 3),
    "inpainted, NS": (partial(_inpainted, method=cv2.INPAINT_NS), (1,), 5),
    "mean colour": (_mean_colour, (1,), 3),
    "blur, sigma {}": (_blurred, (2, 3, 5), 8),
    "colour off, {} levels": (_colour_off, (8, 14, 25), 8),
    "one channel off, {} levels": (_one_channel_off, (8, 14, 25), 8),
    "wrong scale, times {}": (_wrong_scale, (3,), 3),
    "foreign texture, sigma {} px": (_foreign_texture, (1, 5), 6),
    "another object": (_pasted, (1,), 3),
    "line cut, {} px": (_line_cut, (8,), 2),
    "flicker, {} levels": (_flicker, (3, 6, 10), 8),
    "colour step, {} levels": (_colour_step, (6, 10), 6),
    "frozen": (_frozen, (1,), 1),
    "hard seam, {} levels": (_hard_seam, (8, 14, 20), 8),
    "changed outside, {} levels": (_changed_outside, (5, 10), 6),
}
