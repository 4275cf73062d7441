"""Synthetic shots for the background's tests: scenery, camera motions, a masked object, and the truth without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import av
import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.recover import Recovered, recover
from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.planning.windows import Shot
from vace_batch.video.frame import Frame
from vace_batch.video.orientation import Orientation

SIZE = Size(320, 180)
NUM_FRAMES = 24
Picture = npt.NDArray[np.uint8]
Motion = Callable[[int], npt.NDArray[np.float64]]


@dataclass
class Clip:
    """Frames with an object in them, the truth without it, and the object's masks."""

    frames: Sequence[Picture]
    truth: Sequence[Picture]
    masks: Mapping[int, FrameMask]
    frames_read: int = 0

    def read(self, start: int, stop: int) -> Iterator[Frame]:
        for index in range(start, stop):
            self.frames_read += 1
            yield as_frame(self.frames[index], index)

    def masks_in(self, start: int, stop: int) -> dict[int, FrameMask]:
        return {index: mask for index, mask in self.masks.items() if start <= index < stop}

    @property
    def shot(self) -> Shot:
        return Shot(start=0, stop=len(self.frames))

    def recovered(self) -> list[Recovered]:
        height, width = self.frames[0].shape[:2]
        return list(recover(self.read, self.masks_in, self.shot, Size(width, height)))

    def errors(self, found: Sequence[Recovered]) -> npt.NDArray[np.float64]:
        """Differences from the truth over all known pixels, (N, 3)."""
        parts = [
            each.rgb[each.known].astype(float) - self.truth[each.index][each.box.slices][each.known] for each in found
        ]
        return np.concatenate(parts)


def as_frame(picture: npt.NDArray[np.generic], index: int) -> Frame:
    pix_fmt = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
    return Frame(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=pix_fmt),
        index=index,
        pts=index,
        orientation=Orientation(),
    )


def psnr(errors: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, float((errors**2).mean()))))


def share_known(found: Sequence[Recovered], clip: Clip) -> float:
    return sum(int(each.known.sum()) for each in found) / sum(int(mask.bits.sum()) for mask in clip.masks.values())


def scenery(seed: int = 1, width: int = 640, height: int = 360) -> Picture:
    """A picture with detail at several sizes, fine but not finer than a pixel."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 120.0)
    for blur, strength in ((1.2, 16), (4, 20), (16, 30)):
        noise = cv2.GaussianBlur(rng.normal(0, 1, picture.shape), (0, 0), blur)
        picture += noise / noise.std() * strength
    return np.clip(picture, 0, 255).astype(np.uint8)


def seen_through(motion: Motion, picture: Picture, index: int, size: Size = SIZE) -> Picture:
    """Show `picture` through a camera: `motion(index)` maps the frame's pixels to the picture's."""
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, motion(index)[:2], (size.width, size.height), flags=flags), np.uint8)


def still(index: int) -> npt.NDArray[np.float64]:
    return np.array([[1.0, 0, 150], [0, 1, 80], [0, 0, 1]])


def panning(index: int) -> npt.NDArray[np.float64]:
    return np.array([[1.0, 0, 60 + 5.3 * index], [0, 1, 80 + 0.4 * index], [0, 0, 1]])


def shaking(index: int) -> npt.NDArray[np.float64]:
    angle, zoom = 0.03 * np.sin(index * 1.1), 1 + 0.04 * np.sin(index * 0.7)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = np.array([[160 + 9 * np.sin(index * 1.9)], [90 + 6 * np.cos(index * 2.3)]])
    return np.vstack([np.hstack([turn, place]), [0, 0, 1]])


def moving(index: int) -> tuple[int, int]:
    return 60 + 9 * index, 90 + int(15 * np.sin(index / 4))


def with_object(
    truth: Sequence[Picture],
    place: Callable[[int], tuple[int, int]] = moving,
    *,
    radius: int = 22,
    margin: int = 4,
    noise: float = 1.5,
) -> Clip:
    """A bright disc pasted over the truth, masked with a margin, and noise as an encoder leaves it."""
    rng = np.random.default_rng(7)
    frames, masks = [], {}
    for index, picture in enumerate(truth):
        disc = np.zeros(picture.shape[:2], np.uint8)
        shown = np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)
        cv2.circle(shown, place(index), radius, (250, 40, 220), -1)
        cv2.circle(disc, place(index), radius + margin, 1, -1)
        mask = make_mask(index, disc > 0)
        assert mask is not None
        frames.append(shown)
        masks[index] = mask
    return Clip(frames, truth, masks)


def views(motion: Motion, picture: Picture | None = None, count: int = NUM_FRAMES) -> list[Picture]:
    picture = scenery() if picture is None else picture
    return [seen_through(motion, picture, index) for index in range(count)]
