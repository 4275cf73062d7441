"""Draw the pictures of the quality set: backgrounds of many kinds, and sprites (objects with an alpha channel)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage import data as pictures

from vace_batch.geometry import Size

Levels = npt.NDArray[np.float32]
Random = np.random.Generator


def ground(name: str, size: Size, random: Random) -> Levels:
    """Draw a background (H, W, 3) of levels 0..255.

    `name` is a key of `GROUNDS`, or `picture:NAME` for one of the photographs that scikit-image ships.
    """
    if name.startswith("picture:"):
        return _photograph(name.removeprefix("picture:"), size)
    return np.asarray(np.clip(GROUNDS[name](size, random), 0, 255), np.float32)


def _photograph(name: str, size: Size) -> Levels:
    image = np.asarray(getattr(pictures, name)(), np.uint8)
    image = np.dstack([image] * 3) if image.ndim == 2 else image[:, :, :3]
    scale = max(size.width / image.shape[1], size.height / image.shape[0])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image, None, fx=scale + 1e-3, fy=scale + 1e-3, interpolation=how)
    return np.asarray(scaled[: size.height, : size.width], np.float32)


def _noise(size: Size, random: Random, sigma: float) -> Levels:
    """Make smooth noise (H, W, 3) with a standard deviation of 1 in each channel, most of it common to all channels."""
    raw = random.normal(0, 1, (size.height, size.width, 3)) + 2.5 * random.normal(0, 1, (size.height, size.width, 1))
    smooth = cv2.GaussianBlur(raw.astype(np.float32), (0, 0), sigma)
    return np.asarray((smooth - smooth.mean(axis=(0, 1))) / smooth.std(axis=(0, 1)), np.float32)


def _base(random: Random) -> Levels:
    return random.uniform(80, 175, 3).astype(np.float32)


def _texture(size: Size, random: Random, *, sigma: float, contrast: float) -> Levels:
    return _base(random) + contrast * _noise(size, random, sigma) + 8 * _noise(size, random, 40.0)


def _fractal(size: Size, random: Random, *, base: float | None = None, contrast: float = 22.0) -> Levels:
    octaves = sum(_noise(size, random, sigma) * weight for sigma, weight in ((1, 0.3), (3, 0.5), (9, 0.8), (27, 1.0)))
    return (_base(random) if base is None else np.float32(base)) + contrast * np.asarray(octaves, np.float32)


def _gradient(size: Size, random: Random, *, low: float = 40, high: float = 210) -> Levels:
    corners = random.uniform(low, high, (2, 2, 3)).astype(np.float32)
    return np.asarray(cv2.resize(corners, (size.width, size.height), interpolation=cv2.INTER_LINEAR), np.float32)


def _flat(size: Size, random: Random) -> Levels:
    return np.broadcast_to(_base(random), (size.height, size.width, 3)).astype(np.float32)


def _leaves(size: Size, random: Random) -> Levels:
    image = np.full((size.height, size.width, 3), (28, 45, 22), np.float32)
    for _ in range(size.width * size.height // 90):
        at = int(random.integers(0, size.width)), int(random.integers(0, size.height))
        colour = random.uniform(0.5, 1.3) * np.array((70, 120, 45)) + random.normal(0, 10, 3)
        axes = int(random.integers(5, 13)), int(random.integers(2, 5))
        cv2.ellipse(image, at, axes, random.uniform(0, 180), 0, 360, colour.tolist(), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.6).astype(np.float32)


def _bricks(size: Size, random: Random) -> Levels:
    image = np.full((size.height, size.width, 3), 170, np.float32)
    base = random.uniform((120, 50, 40), (170, 90, 80))
    for row, y in enumerate(range(0, size.height, 18)):
        for x in range(-20 * (row % 2), size.width, 40):
            colour = base * random.uniform(0.8, 1.15)
            cv2.rectangle(image, (x + 2, y + 2), (x + 38, y + 16), colour.tolist(), -1)
    return image + 5 * _noise(size, random, 1.0)


def _stripes(size: Size, random: Random) -> Levels:
    y, x = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    angle = random.uniform(0, np.pi)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / random.uniform(14, 30))
    image = _base(random) + 30 * np.clip(3 * wave, -1, 1)[..., None] + 4 * _noise(size, random, 1.5)
    return np.asarray(image, np.float32)


def _street(size: Size, random: Random) -> Levels:
    """Draw the straight edges of a street: sky, walls with windows, a road."""
    image = _gradient(size, random, low=150, high=220)
    for x in range(0, size.width, 90):
        top = int(random.uniform(0.1, 0.35) * size.height)
        wall = random.uniform(60, 190, 3)
        cv2.rectangle(image, (x, top), (x + 86, size.height), wall.tolist(), -1)
        for y in range(top + 12, size.height, 32):
            for left in range(x + 8, x + 76, 24):
                cv2.rectangle(image, (left, y), (left + 12, y + 18), (wall * random.uniform(0.3, 0.8)).tolist(), -1)
    road = int(0.78 * size.height)
    image[road:] = 85 + 5 * _noise(Size(size.width, size.height - road), random, 1.0)
    return image + 2 * _noise(size, random, 1.0)


def _dark_gradient(size: Size, random: Random) -> Levels:
    return _gradient(size, random, low=6, high=34)


GROUNDS: dict[str, Callable[[Size, Random], Any]] = {
    "fine": partial(_texture, sigma=0.9, contrast=22.0),
    "middle": partial(_texture, sigma=2.5, contrast=26.0),
    "coarse": partial(_texture, sigma=8.0, contrast=30.0),
    "fractal": _fractal,
    "gradient": _gradient,
    "flat": _flat,
    "leaves": _leaves,
    "dark": partial(_fractal, base=20.0, contrast=4.5),
    "dark gradient": _dark_gradient,
    "bricks": _bricks,
    "stripes": _stripes,
    "street": _street,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """An object: colours `rgb` (h, w, 3) and opacity `alpha` (h, w) of 0..1."""

    rgb: Levels
    alpha: Levels


def outline(shape: str, size_px: int, random: Random) -> Levels:
    """Draw the opacity (h, w) of an object about `size_px` wide, with soft edges."""
    side = size_px * 4
    image = np.zeros((side, side), np.uint8)
    centre = (side // 2, side // 2)
    if shape == "disc":
        cv2.circle(image, centre, side // 2 - 4, 255, -1)
    elif shape == "square":
        image[4:-4, 4:-4] = 255
    elif shape == "person":
        cv2.circle(image, (side // 2, side // 6), side // 8, 255, -1)
        cv2.ellipse(image, (side // 2, side * 3 // 5), (side // 5, side * 3 // 8), 0, 0, 360, 255, -1)
    elif shape == "blob":
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        waves = sum(random.uniform(-0.2, 0.2) * np.cos(k * angles + random.uniform(0, 6)) for k in range(2, 6))
        radius = (side / 2 - 4) * np.clip(0.68 + waves, 0.25, 1.0)
        points = np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)
        cv2.fillPoly(image, [points.astype(np.int32)], 255)
    elif shape == "text":
        image = np.zeros((side // 3, side), np.uint8)
        cv2.putText(image, "SALE 24", (side // 40, side // 4), cv2.FONT_HERSHEY_DUPLEX, side / 148, 255, side // 44)
    elif shape == "logo":
        cv2.circle(image, centre, side // 2 - side // 12, 255, side // 9)
        cv2.putText(image, "K", (side * 3 // 10, side * 7 // 10), cv2.FONT_HERSHEY_DUPLEX, side / 52, 255, side // 14)
    else:
        raise ValueError(f"shape: expected disc, square, person, blob, text or logo, got {shape!r}")
    small = cv2.resize(image, (image.shape[1] // 4, image.shape[0] // 4), interpolation=cv2.INTER_AREA)
    return np.asarray(np.pad(small, 2) / np.float32(255), np.float32)


def sprite(shape: str, paint: str, size_px: int, around: Levels, random: Random) -> Sprite:
    """Draw an object that is painted `flat`, with a `pattern`, a `texture`, or in the colours of the `ground`.

    `around` is the background (H, W, 3), from which the colours of the object keep a distance, or are taken.
    """
    alpha = outline(shape, size_px, random)
    size = Size(alpha.shape[1], alpha.shape[0])
    mean = around.mean(axis=(0, 1))
    away = random.uniform(*((35, 95) if mean.mean() > 45 else (14, 60)), 3) * np.where(
        mean + random.uniform(-40, 40, 3) > 128, -1, 1
    )
    rgb = np.broadcast_to(mean + away, (size.height, size.width, 3)).astype(np.float32)
    y, x = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    if paint == "pattern":
        rgb = rgb + 28 * np.sin(x / 3.3 + y / 9)[..., None]
    elif paint == "texture":
        rgb = rgb + 25 * _noise(size, random, 1.6)
    elif paint == "ground":
        rows, columns = (np.arange(length) % limit for length, limit in zip(alpha.shape, around.shape, strict=False))
        rgb = around[::-1, ::-1][rows][:, columns]
        rgb = rgb + 14 * (2 * y / size.height - 1)[..., None] + 9
    elif paint != "flat":
        raise ValueError(f"paint: expected flat, pattern, texture or ground, got {paint!r}")
    return Sprite(rgb=np.clip(rgb, 0, 255).astype(np.float32), alpha=alpha)
