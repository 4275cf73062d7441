"""Make training pictures: crops of photographs in a folder, and drawn pictures.

Axes: H rows, W columns, C channels (RGB). Pictures are float32 in -1..1, where 0.0 is VACE's neutral.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import UsageError

FloatPicture = NDArray[np.float32]

_SCALES = (1.0, 0.7, 0.5, 0.35)
_DRAWN = 0.15


class Pictures:
    """Endless crops: mostly of the photographs, some drawn (flat colours, gradients, stripes, shapes).

    Raises:
        UsageError: `folder` holds no picture that can be read.
    """

    def __init__(self, folder: Path, *, held_out: Sequence[str] = (), only: Sequence[str] | None = None) -> None:
        self._photos: list[NDArray[np.uint8]] = []
        for path in sorted(folder.iterdir()):
            chosen = path.stem in only if only is not None else path.stem not in held_out
            photo = cv2.imread(str(path), cv2.IMREAD_COLOR) if chosen else None
            if photo is None:
                continue
            rgb = photo[:, :, ::-1]
            for scale in _SCALES:
                smaller = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                if scale == 1 or min(smaller.shape[:2]) >= 200:
                    self._photos.append(np.ascontiguousarray(smaller, dtype=np.uint8))
        if not self._photos:
            raise UsageError(f"pictures: {folder} holds no readable picture")
        sizes = np.array([np.sqrt(photo.shape[0] * photo.shape[1]) for photo in self._photos])
        self._weights = sizes / sizes.sum()

    def crop(self, height: int, width: int, generator: np.random.Generator) -> FloatPicture:
        """Make one picture, float32 (H, W, 3)."""
        if generator.random() < _DRAWN:
            return draw(height, width, generator)
        photo = self._photos[generator.choice(len(self._photos), p=self._weights)]
        rows, columns = photo.shape[:2]
        if rows < height or columns < width:
            scale = max(height / rows, width / columns)
            photo = np.asarray(cv2.resize(photo, None, fx=scale + 0.01, fy=scale + 0.01), np.uint8)
            rows, columns = photo.shape[:2]
        top = generator.integers(rows - height + 1)
        left = generator.integers(columns - width + 1)
        piece = photo[top : top + height, left : left + width].astype(np.float32) / 127.5 - 1
        return recolour(piece if generator.random() < 0.5 else piece[:, ::-1], generator)


def recolour(picture: FloatPicture, generator: np.random.Generator) -> FloatPicture:
    """Change contrast, brightness and the balance of the channels at random; sometimes also their order."""
    if generator.random() < 0.15:
        picture = picture[:, :, generator.permutation(3)]
    gain = generator.uniform(0.7, 1.15) * generator.uniform(0.9, 1.1, 3)
    changed = picture * gain.astype(np.float32) + np.float32(generator.normal(0, 0.12))
    return np.ascontiguousarray(np.clip(changed, -1, 1), dtype=np.float32)


def draw(height: int, width: int, generator: np.random.Generator) -> FloatPicture:
    """Draw a picture, float32 (H, W, 3): a gradient, perhaps stripes or smooth noise, then shapes."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = generator.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * columns + np.sin(angle) * rows) / max(height, width)
    start, end = generator.uniform(-0.9, 0.9, (2, 3)).astype(np.float32)
    picture = start + (end - start) * along[:, :, None]
    kind = generator.integers(3)
    if kind == 0:
        wave = np.sin(along * generator.uniform(5, 80) + generator.uniform(0, 6))
        picture = picture + generator.uniform(0.05, 0.5) * wave[:, :, None]
    elif kind == 1:
        cells = int(generator.integers(3, 24))
        noise = generator.normal(0, 0.25, (cells, cells, 3)).astype(np.float32)
        picture = picture + cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.ascontiguousarray(picture, dtype=np.float32)
    for _ in range(generator.integers(0, 6)):
        _draw_shape(picture, generator)
    return np.asarray(np.clip(picture, -1, 1), np.float32)


def _draw_shape(picture: FloatPicture, generator: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    colour = tuple(float(value) for value in generator.uniform(-1, 1, 3))
    centre = int(generator.integers(width)), int(generator.integers(height))
    kind = generator.integers(3)
    if kind == 0:
        axes = int(generator.integers(3, width // 3 + 4)), int(generator.integers(3, height // 3 + 4))
        cv2.ellipse(picture, centre, axes, float(generator.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 1:
        corner = int(generator.integers(width)), int(generator.integers(height))
        cv2.rectangle(picture, centre, corner, colour, -1)
    else:
        end = int(generator.integers(width)), int(generator.integers(height))
        cv2.line(picture, centre, end, colour, int(generator.integers(1, 6)), cv2.LINE_AA)
