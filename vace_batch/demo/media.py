"""Three short clips, made on the spot from free pictures, and the manifest that says what to do with them.

The pictures come out of the scikit-image wheel's own `skimage/data`, never from a download: rocket.jpg (SpaceX, public
domain), moon.png (NASA, public domain), brick.png, grass.png, horse.png and chelsea.png (CC0), as scikit-image's
docstrings state.

    python -m vace_batch.demo.media FOLDER      writes the clips and prints the manifest's path

Array suffixes: H height, W width, 3 = RGB; uint8 throughout, alpha float32 0..1.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vace_batch.geometry import Box, Size
from vace_batch.manifest import SCHEMA
from vace_batch.masks.weights import DEMO_DETECTOR
from vace_batch.video.write import write_clip

Picture = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.float32]
_Sample = TypeVar("_Sample", np.uint8, np.float32)

SIZE = Size(384, 216)
NUM_FRAMES = 49
DEMO_VERSION = b"2"
_VERSION_KEY = b"vace_batch.demo"
_BOX_EVERY_FRAMES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One frame of a demo clip: its picture (H, W, 3) and how much of each pixel the moving object covers (H, W)."""

    picture_HW3: Picture
    object_HW: Alpha


def write_demo(folder: str | Path) -> Path:
    """Write the three clips, the mask files and the manifest into `folder`; returns the manifest's path.

    A folder that already holds this version of the demo is left as it is, so that a second run finds its work done.
    """
    root = Path(folder).absolute()
    manifest = root / "manifest.parquet"
    if manifest.exists() and (pq.read_schema(manifest).metadata or {}).get(_VERSION_KEY) == DEMO_VERSION:
        return manifest
    root.mkdir(parents=True, exist_ok=True)
    rows = [_ball_by_class(root), _horse_by_mask(root), _cat_restyled(root)]
    schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), _VERSION_KEY: DEMO_VERSION})
    table = pa.Table.from_pylist(rows, schema=schema)
    staged = manifest.with_suffix(".partial")
    pq.write_table(table, staged)
    staged.rename(manifest)
    return manifest


def _ball_by_class(root: Path) -> dict[str, object]:
    shown = list(moon_over_the_launch_pad())
    _write(root / "moon.mp4", shown, rate=Fraction(25), tone_hz=220.0)
    return {
        "job_id": "ball-by-class",
        "video_uri": "moon.mp4",
        "task": "removal",
        "targets": ["ball"],
        "detector": DEMO_DETECTOR,
        "seed": 1,
    }


def _horse_by_mask(root: Path) -> dict[str, object]:
    shown = list(horse_on_the_pavement())
    _write(root / "horse.mp4", shown, rate=Fraction(24), tone_hz=330.0)
    masks = root / "horse-masks"
    masks.mkdir(exist_ok=True)
    for index, frame in enumerate(shown):
        Image.fromarray(np.where(frame.object_HW > 0, 255, 0).astype(np.uint8)).save(masks / f"{index:04d}.png")
    return {
        "job_id": "horse-by-mask",
        "video_uri": "horse.mp4",
        "task": "removal",
        "mask_uri": "horse-masks",
        "seed": 2,
    }


def _cat_restyled(root: Path) -> dict[str, object]:
    _write(root / "cat.mp4", list(cat_comes_nearer()), rate=Fraction(24000, 1001), tone_hz=440.0)
    return {
        "job_id": "cat-restyled",
        "video_uri": "cat.mp4",
        "task": "restyle",
        "control": "gray",
        "prompt": "a watercolour painting of a cat",
        "seed": 3,
    }


def _write(path: Path, shown: list[Shown], *, rate: Fraction, tone_hz: float) -> None:
    write_clip(str(path), (frame.picture_HW3 for frame in shown), rate=rate, tone_hz=tone_hz)


def moon_over_the_launch_pad() -> Iterator[Shown]:
    """A ball of moon drifts past a launch pad at dusk, seen by a camera that pans slowly to the right."""
    pad, moon = picture("rocket.jpg"), picture("moon.png")
    disc = cv2.resize(moon[70:350, 130:410], (56, 56), interpolation=cv2.INTER_AREA).astype(np.float32)
    disc = np.clip((disc - 80) * 2.1 + 70, 0, 255).astype(np.uint8)
    for index in range(NUM_FRAMES):
        share = index / (NUM_FRAMES - 1)
        background = _view(pad, centre=(300 + 30 * share, 235.0), width=560.0)
        x, y = 40 + 300 * share, 66 - 34 * math.sin(math.pi * share)
        alpha = _disc((x, y), radius=25.0)
        yield Shown(picture_HW3=_over(background, _placed(disc, (x, y)), alpha), object_HW=alpha)


def horse_on_the_pavement() -> Iterator[Shown]:
    """A horse, cut from a silhouette and dressed in pale grass, trots over a pavement in front of a still camera."""
    pavement = _tinted(picture("brick.png"), (1.15, 0.82, 0.68))
    coat = _tinted(picture("grass.png") // 3 + 150, (1.12, 1.08, 0.98))
    silhouette = (picture("horse.png")[..., 0] < 128).astype(np.float32)
    silhouette = np.asarray(cv2.resize(silhouette, (150, 123), interpolation=cv2.INTER_AREA), np.float32)
    dressed = np.asarray(cv2.resize(coat, (150, 123), interpolation=cv2.INTER_AREA), np.uint8)
    background = _view(pavement, centre=(256.0, 256.0), width=500.0)
    for index in range(NUM_FRAMES):
        share = index / (NUM_FRAMES - 1)
        at = 70 + 240 * share, 112 - 5 * abs(math.sin(5 * math.pi * share))
        alpha = _placed(silhouette, at)
        yield Shown(picture_HW3=_over(background, _placed(dressed, at), alpha), object_HW=alpha)


def cat_comes_nearer() -> Iterator[Shown]:
    """Chelsea the cat while the camera closes in; nothing is to be removed."""
    cat = picture("chelsea.png")
    nothing = np.zeros((SIZE.height, SIZE.width), np.float32)
    for index in range(NUM_FRAMES):
        share = index / (NUM_FRAMES - 1)
        yield Shown(
            picture_HW3=_view(cat, centre=(228.0 - 8 * share, 128.0 + 6 * share), width=440.0 - 90 * share),
            object_HW=nothing,
        )


def keyframed_boxes(objects_HW: list[Alpha]) -> list[dict[str, float]]:
    """Boxes round the object every 12 frames and at the last, with room for the curve of its way between them."""
    last = len(objects_HW) - 1
    keys = []
    for index in sorted({*range(0, last, _BOX_EVERY_FRAMES), last}):
        rows, columns = np.nonzero(objects_HW[index] > 0)
        tight = Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        box = tight.pad(6).clip(SIZE) or tight
        keys.append({"x": box.x, "y": box.y, "width": box.width, "height": box.height, "frame": index})
    return keys


def detector_path() -> Path:
    """The demo's own detector, of the classes ball, horse and car; see objects.md."""
    return Path(__file__).with_name("objects.onnx")


def pictures_folder() -> Path:
    """Where the scikit-image wheel keeps its pictures.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.origin:
        raise ModuleNotFoundError("the demo's pictures come from scikit-image: pip install scikit-image")
    return Path(found.origin).parent / "data"


@cache
def picture(name: str) -> Picture:
    """One of the wheel's pictures, (H, W, 3) uint8; not to be written to."""
    with Image.open(pictures_folder() / name) as image:
        return np.asarray(image.convert("RGB"))


def _tinted(picture: Picture, factors: tuple[float, float, float]) -> Picture:
    return np.clip(picture * np.asarray(factors, np.float32), 0, 255).astype(np.uint8)


def _view(picture: Picture, *, centre: tuple[float, float], width: float) -> Picture:
    """What a camera of the demo's size sees: `width` source pixels across, round `centre` (x, y)."""
    scale = SIZE.width / width
    matrix = np.array(
        [[scale, 0, SIZE.width / 2 - scale * centre[0]], [0, scale, SIZE.height / 2 - scale * centre[1]]], np.float32
    )
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.5 / scale) if scale < 1 else picture
    seen = cv2.warpAffine(blurred, matrix, _wh(), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(seen, np.uint8)


def _placed(picture: npt.NDArray[_Sample], centre: tuple[float, float]) -> npt.NDArray[_Sample]:
    """`picture` moved onto an empty frame so that its middle lies at `centre` (x, y), to a fraction of a pixel."""
    height, width = picture.shape[:2]
    matrix = np.array([[1, 0, centre[0] - width / 2], [0, 1, centre[1] - height / 2]], np.float32)
    return np.asarray(cv2.warpAffine(picture, matrix, _wh(), flags=cv2.INTER_LINEAR), picture.dtype)


def _disc(centre: tuple[float, float], radius: float) -> Alpha:
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width].astype(np.float32)
    distance = np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1])
    return np.asarray(np.clip(radius + 0.5 - distance, 0, 1), np.float32)


def _over(background: Picture, picture: Picture, alpha: Alpha) -> Picture:
    share = alpha[..., None]
    return np.rint(picture * share + background * (1 - share)).astype(np.uint8)


def _wh() -> tuple[int, int]:
    return SIZE.width, SIZE.height


if __name__ == "__main__":
    print(write_demo(sys.argv[1]))
