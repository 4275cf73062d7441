"""The style words that the embedded model knows; each is a change of colour or tone that a viewer sees at once.

Axes: H rows, W columns, C channels (RGB); pixels are float32 in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Look = NDArray[np.float32]

TEMPLATES = (
    "{}",
    "{} style",
    "in {}",
    "{} look",
    "{} tint",
    "a {} picture",
    "a {} scene",
    "a {} cat",
    "a {} house",
    "{} light",
    "the same in {}",
)
"""Prompts around a style's word."""

OTHER_PROMPTS = (
    "",
    "",
    "",
    "a street",
    "a clean background",
    "a cat",
    "a picture of a house",
    "grass",
    "high quality",
    "water and stones",
    "an empty room",
    "a dog in the park",
    "the same scene",
    "film",
)
"""Prompts that name no style and change nothing."""


def _tint(red: float, green: float, blue: float) -> Callable[[Look], Look]:
    colour = np.array([red, green, blue], np.float32)

    def look(frame: Look) -> Look:
        return np.asarray(0.35 * frame + 0.65 * _light(frame) * colour, np.float32)

    return look


def _light(frame: Look) -> Look:
    return np.asarray(frame @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)[..., None]


def _night(frame: Look) -> Look:
    return np.asarray(_light(frame) ** 1.3 * np.array([0.22, 0.3, 0.55], np.float32), np.float32)


def _sepia(frame: Look) -> Look:
    return np.asarray(0.1 + 0.9 * _light(frame) * np.array([1.0, 0.83, 0.6], np.float32), np.float32)


def _pencil(frame: Look) -> Look:
    light = np.ascontiguousarray(_light(frame)[..., 0])
    blurred = cv2.GaussianBlur(light, (0, 0), 3)
    drawn = np.clip(light / np.maximum(blurred, 1e-3), 0, 1) ** 2
    return np.repeat(drawn[..., None], 3, axis=2).astype(np.float32)


STYLES: dict[str, Callable[[Look], Look]] = {
    "red": _tint(1.5, 0.45, 0.4),
    "green": _tint(0.5, 1.35, 0.45),
    "blue": _tint(0.45, 0.75, 1.6),
    "golden": _tint(1.4, 1.05, 0.35),
    "sepia": _sepia,
    "night": _night,
    "pencil": _pencil,
}


def styled(frames_THWC: NDArray[np.uint8], style: str | None) -> NDArray[np.uint8]:
    """Apply `style` to `frames_THWC`, uint8; None leaves them unchanged."""
    if style is None:
        return frames_THWC
    looks = [STYLES[style](frame.astype(np.float32) / 255) for frame in frames_THWC]
    return (np.clip(np.stack(looks), 0, 1) * 255 + 0.5).astype(np.uint8)


def prompt_of(style: str | None, generator: np.random.Generator) -> str:
    """Make a prompt for `style`; None gives a prompt without a style word."""
    if style is None:
        return str(generator.choice(OTHER_PROMPTS))
    return str(generator.choice(TEMPLATES)).format(style)
