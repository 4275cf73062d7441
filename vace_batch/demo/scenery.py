"""Draw skies, mountains, nebulae, balls and balloons from random numbers with fixed seeds.

Soft clouds suit the embedded model: what it paints has their detail, and a passer-by looks at the balloon.

Array suffixes: H height, W width, 3 = RGB. Pictures in the making are float32 levels 0..255, alpha float32 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Size

Levels = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Ramp = Sequence[tuple[float, Colour]]
"""Colours at places 0..1, linear between them."""

_OVERSAMPLED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Colours from the top of the sky to the horizon: clear, where clouds are lit and where they are dark."""

    clear: Ramp
    lit: Ramp
    dark: Ramp


SUNSET = Weather(
    clear=((0, (58, 72, 120)), (0.4, (128, 110, 150)), (0.7, (226, 148, 120)), (1, (250, 196, 132))),
    lit=((0, (160, 140, 165)), (0.4, (242, 168, 145)), (0.7, (255, 210, 155)), (1, (255, 236, 190))),
    dark=((0, (38, 46, 88)), (0.4, (80, 70, 114)), (0.7, (146, 90, 104)), (1, (190, 120, 100))),
)
MORNING = Weather(
    clear=((0, (92, 136, 186)), (0.5, (150, 184, 208)), (1, (226, 224, 208))),
    lit=((0, (226, 230, 236)), (0.5, (244, 240, 234)), (1, (255, 246, 226))),
    dark=((0, (78, 104, 146)), (0.5, (122, 146, 176)), (1, (176, 184, 190))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """A thing on its own: its colours (h, w, 3) and how much of each pixel it covers (h, w)."""

    colours: Levels | npt.NDArray[np.uint8]
    alpha: Levels


def roughness(size: Size, seed: int, *, fall: float, stretch: float = 1.0) -> Levels:
    """Draw a random surface, (H, W), mean 0, spread 1, that joins itself at the edges.

    Its spectrum falls with frequency to the power of `fall`; with `stretch` it is that much longer than high.
    """
    rows, columns = np.fft.fftfreq(size.height)[:, None], np.fft.rfftfreq(size.width)[None]
    frequency = np.hypot(rows, columns * stretch)
    frequency[0, 0] = np.inf
    phases = np.random.default_rng(seed).random(frequency.shape)
    surface = np.fft.irfft2(frequency**-fall * np.exp(2j * np.pi * phases), s=(size.height, size.width))
    return np.asarray((surface - surface.mean()) / surface.std(), np.float32)


def sky(weather: Weather, bright_HW: Levels, dark_HW: Levels) -> Levels:
    """Draw clouds, (H, W, 3): lit where `bright_HW` is high, dark where `dark_HW` is high."""
    height, width = bright_HW.shape
    lit = 0.8 * np.clip(0.45 + 0.55 * bright_HW, 0, 1)[..., None]
    dark = 0.65 * np.clip(0.6 * dark_HW, 0, 1)[..., None]
    seen = _gradient(weather.clear, height, width) * (1 - lit) + _gradient(weather.lit, height, width) * lit
    return np.asarray(seen * (1 - dark) + _gradient(weather.dark, height, width) * dark, np.float32)


def mountains(size: Size, seed: int, *, base: float, rise: float, colour: Colour, haze: Colour) -> Sprite:
    """Draw a ridge about `base` px below the top, some `rise` px up and down, as wide as the picture."""
    frequency = np.fft.rfftfreq(size.width)
    frequency[0] = np.inf
    weights = frequency**-1.3
    weights[:2] *= 0.3
    phases = np.random.default_rng(seed).random(len(frequency))
    outline = np.fft.irfft(weights * np.exp(2j * np.pi * phases), n=size.width)
    below = np.arange(size.height)[:, None] - (base - rise * outline / outline.std())[None]
    hazy = 0.35 * (1 - np.clip(below / 70, 0, 1))[..., None]
    rock = np.array(haze) * hazy + np.array(colour) * (1 - hazy)
    rock = rock * (1 + 0.14 * roughness(size, seed + 1, fall=1.3))[..., None]
    return Sprite(colours=np.asarray(rock, np.float32), alpha=np.asarray(np.clip(below + 0.5, 0, 1), np.float32))


def nebula(size: Size, seed: int) -> Levels:
    """Draw glowing gas in four colours, (H, W, 3)."""
    seen = np.full((size.height, size.width, 3), (14, 12, 34), np.float32)
    gases: tuple[Colour, ...] = ((150, 40, 120), (40, 90, 170), (210, 110, 80), (30, 140, 140))
    for number, colour in enumerate(gases):
        dense = np.clip(0.3 + 0.55 * roughness(size, seed + number, fall=1.9), 0, 2)
        seen += 0.45 * dense[..., None] * np.array(colour, np.float32)
    return seen


def ball(radius: int, colour: Colour) -> Sprite:
    """Draw a ball, lit from the upper left."""
    x, y = _grid(2 * radius + 2, 2 * radius + 2)
    x, y = x / radius, y / radius
    depth = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    light = np.clip(0.62 + 0.55 * (0.62 * depth - 0.45 * x - 0.6 * y), 0.3, 1.12)
    return _reduced(light[..., None] * np.array(colour), x**2 + y**2 <= 1)


def balloon(height: int, width: int) -> Sprite:
    """Draw a hot-air balloon in gores of three colours, with its basket."""
    x, y = _grid(height, width)
    radius, top = width / 2 - 1, -height / 2 + 1
    centre, mouth = top + radius, 0.3 * height
    share = np.clip((y - centre) / (mouth - centre), 0, 1)
    half = np.where(
        y < centre,
        np.sqrt(np.maximum(radius**2 - (y - centre) ** 2, 0)),
        radius * np.cos(0.43 * np.pi * share) ** 0.8,
    )
    across = np.arcsin(np.clip(x / np.maximum(half, 1), -1, 1))
    gores = np.floor((across / np.pi + 0.5) * 9).astype(int) % 3
    light = (0.62 + 0.45 * np.cos(across + 0.55)) * np.clip(1.1 - 0.5 * (y - centre) / height, 0.4, 1.2)
    seen = np.array(((214, 62, 48), (246, 226, 190), (232, 150, 40)))[gores] * light[..., None]
    envelope = (np.abs(x) <= half) & (y < mouth) & (y > top)
    basket = (np.abs(x) < 0.09 * width) & (y > 0.4 * height) & (y < 0.485 * height)
    slant = 0.08 * width + (0.4 * height - y) / height * 0.5 * width
    ropes = (np.abs(np.abs(x) - slant) < 0.5) & (y >= mouth) & (y <= 0.41 * height)
    seen[basket], seen[ropes] = (96, 62, 40), (60, 44, 40)
    return _reduced(seen, envelope | basket | ropes)


def put(picture: Levels, sprite: Sprite, centre: tuple[float, float]) -> tuple[Levels, Levels]:
    """Paste a sprite onto `picture` (H, W, 3), its middle at `centre` (x, y); also return the sprite's alpha (H, W)."""
    height, width = sprite.alpha.shape
    matrix = np.array([[1, 0, centre[0] - width / 2], [0, 1, centre[1] - height / 2]], np.float32)
    whole = picture.shape[1], picture.shape[0]
    alpha = np.asarray(cv2.warpAffine(sprite.alpha, matrix, whole), np.float32)
    colours = cv2.warpAffine(sprite.colours, matrix, whole)
    return over(picture, Sprite(colours=np.asarray(colours, np.float32), alpha=alpha)), alpha


def over(picture: Levels, sprite: Sprite) -> Levels:
    """Paste a sprite of the picture's own size onto `picture` (H, W, 3)."""
    share = sprite.alpha[..., None]
    return np.asarray(sprite.colours * share + picture * (1 - share), np.float32)


def drifted(surface_HW: Levels, by_px: float) -> Levels:
    """Move a surface that joins itself at the edges `by_px` to the left."""
    matrix = np.array([[1, 0, -by_px], [0, 1, 0]], np.float32)
    size = surface_HW.shape[1], surface_HW.shape[0]
    return np.asarray(cv2.warpAffine(surface_HW, matrix, size, borderMode=cv2.BORDER_WRAP), np.float32)


def _gradient(ramp: Ramp, height: int, width: int) -> Levels:
    places = [place for place, _ in ramp]
    colours = np.array([colour for _, colour in ramp])
    column = np.stack([np.interp(np.linspace(0, 1, height), places, colours[:, band]) for band in range(3)], axis=-1)
    return np.asarray(np.repeat(column[:, None], width, axis=1), np.float32)


def _grid(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return columns and rows in px from the middle, oversampled."""
    y, x = (np.mgrid[: height * _OVERSAMPLED, : width * _OVERSAMPLED] + 0.5) / _OVERSAMPLED
    return x - width / 2, y - height / 2


def _reduced(colours: npt.NDArray[np.float64], covers: npt.NDArray[np.bool_]) -> Sprite:
    """Make a sprite from oversampled colours and coverage; the colours reach a little beyond the coverage."""
    size = covers.shape[1] // _OVERSAMPLED, covers.shape[0] // _OVERSAMPLED
    alpha = np.asarray(cv2.resize(covers.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)
    inside = cv2.resize((colours * covers[..., None]).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return Sprite(colours=np.asarray(inside / np.maximum(alpha, 1e-3)[..., None], np.float32), alpha=alpha)
