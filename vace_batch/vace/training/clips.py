"""Make training clips: a picture under a still or moving camera, with drawn objects that pass.

Axes: T frames, H rows, W columns, C channels (RGB). Clips are float32 (T, H, W, 3) in -1..1.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.vace.training.pictures import FloatPicture, Pictures

Clip = NDArray[np.float32]

_STILL = 0.4
_PASSING = 0.4


class Clips:
    """Endless clips made of `pictures`."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def clip(self, height: int, width: int, num_frames: int, generator: np.random.Generator) -> Clip:
        """Make one clip, float32 (T, H, W, 3)."""
        if generator.random() < _STILL:
            picture = self._pictures.crop(height, width, generator)
            frames = np.repeat(picture[None], num_frames, axis=0)
        else:
            frames = self._camera(height, width, num_frames, generator)
        if generator.random() < _PASSING:
            frames = np.ascontiguousarray(frames)
            for _ in range(generator.integers(1, 3)):
                self._pass_by(frames, generator)
        return np.ascontiguousarray(frames, dtype=np.float32)

    def _camera(self, height: int, width: int, num_frames: int, generator: np.random.Generator) -> Clip:
        """Pan over a larger crop, with a little zoom and roll."""
        margin = 40
        picture = self._pictures.crop(height + 2 * margin, width + 2 * margin, generator)
        speed = generator.uniform(-4, 4, 2) * generator.choice([0.1, 0.4, 1.0])
        speed = np.clip(speed, -1.6 * margin / num_frames, 1.6 * margin / num_frames)
        zoom, roll = generator.normal(0, 0.002), generator.normal(0, 0.15)
        centre = (picture.shape[1] / 2, picture.shape[0] / 2)
        frames = []
        for index in range(num_frames):
            step = index - (num_frames - 1) / 2
            matrix = cv2.getRotationMatrix2D(centre, roll * step, 1 + zoom * step)
            matrix[:, 2] += speed * step - margin
            frames.append(
                cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            )
        return np.stack(frames)

    def _pass_by(self, frames: Clip, generator: np.random.Generator) -> None:
        """Draw one textured ellipse that moves on a line into `frames`."""
        num_frames, height, width = frames.shape[:3]
        texture: FloatPicture = self._pictures.crop(height, width, generator)
        axes = generator.uniform(0.08, 0.25, 2) * min(height, width)
        start = generator.uniform(0, 1, 2) * (width, height)
        speed = generator.uniform(-3, 3, 2)
        for index in range(num_frames):
            alpha = np.zeros((height, width), np.float32)
            centre = start + speed * index
            cv2.ellipse(alpha, (tuple(map(float, centre)), tuple(map(float, 2 * axes)), 0.0), 1.0, -1, cv2.LINE_AA)
            shift = np.array([[1, 0, speed[0] * index], [0, 1, speed[1] * index]], np.float32)
            moved = cv2.warpAffine(texture, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
            frames[index] += alpha[:, :, None] * (moved - frames[index])
