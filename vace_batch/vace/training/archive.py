"""Cut clean windows out of a user's own videos, which a manifest's rows name, at random and within shots.

The manifest's masks are not used: a window is its own truth when its mask is drawn at random.
Axes: T frames, H rows, W columns, C channels (RGB), uint8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from vace_batch.errors import UsageError
from vace_batch.geometry import Box, Size
from vace_batch.vcu.unit import Pixels
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shot:
    path: str
    start: int
    stop: int
    start_pts: int


class Archive:
    """Endless windows of `num_frames` = 4n+1 frames at `size` of the videos at local `paths`.

    Raises:
        ClipError: a video cannot be read.
        UsageError: no shot is long enough.
    """

    def __init__(self, paths: Iterable[str], size: Size, num_frames: int) -> None:
        self._size, self._num_frames = size, num_frames
        self._shots = [
            shot for path in sorted(set(paths)) for shot in _shots_of(path) if shot.stop - shot.start >= num_frames
        ]
        if not self._shots:
            raise UsageError(
                f"training: no shot of the manifest's videos has {num_frames} frames; set fewer frames per window"
            )
        lengths = np.array([shot.stop - shot.start for shot in self._shots], np.float64)
        self._weights = lengths / lengths.sum()

    def window(self, generator: np.random.Generator) -> Pixels:
        """Cut one window, (T, H, W, 3), from a random place of a random shot, shrunk at random, perhaps mirrored."""
        shot = self._shots[generator.choice(len(self._shots), p=self._weights)]
        first = int(generator.integers(shot.start, shot.stop - self._num_frames + 1))
        start_pts = shot.start_pts if shot.start == first else None
        place = generator.random(2)
        shrinks = generator.random()
        mirrored = generator.random() < 0.5
        frames = []
        for frame in read_frames(shot.path, first, first + self._num_frames, start_pts=start_pts):
            pixels = frame.rgb(_box(frame.size, self._size, place, shrinks))
            fitted = cv2.resize(pixels, (self._size.width, self._size.height), interpolation=cv2.INTER_AREA)
            frames.append(fitted[:, ::-1] if mirrored else fitted)
        return np.ascontiguousarray(np.stack(frames), dtype=np.uint8)


def _shots_of(path: str) -> list[_Shot]:
    scanned = scan(path)
    edges = [0, *scanned.cuts, scanned.num_frames]
    return [
        _Shot(path=path, start=start, stop=stop, start_pts=scanned.pts[start])
        for start, stop in zip(edges, edges[1:], strict=False)
    ]


def _box(frame: Size, size: Size, place: np.ndarray[tuple[int], np.dtype[np.float64]], shrinks: float) -> Box:
    """Choose a box of `size`'s shape inside `frame`: from `size` itself (0) to the largest box that fits (1)."""
    largest = min(frame.width / size.width, frame.height / size.height)
    scale = largest if largest < 1 else 1 + (largest - 1) * shrinks
    width, height = int(size.width * scale), int(size.height * scale)
    return Box(int(place[0] * (frame.width - width)), int(place[1] * (frame.height - height)), width, height)
