"""Make six short clips from free pictures and drawn skies, and the manifest of the demo's jobs.

The pictures come out of the scikit-image wheel's own `skimage/data`, never from a download: brick.png, grass.png,
horse.png and chelsea.png (CC0) and rocket.jpg (SpaceX, public domain), as scikit-image's docstrings state.

    python -m vace_batch.demo.clips FOLDER      writes the clips and prints the manifest's path

Array suffixes: H height, W width, 3 = RGB; uint8 throughout, alpha float32 0..1.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from vace_batch.demo import scenery
from vace_batch.geometry import Box, Size
from vace_batch.manifest.schema import SCHEMA
from vace_batch.masks.detectors.text import TEXT
from vace_batch.masks.weights import DEMO_DETECTOR
from vace_batch.video.writer import write_clip

Picture = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.float32]

SIZE = Size(384, 216)
LARGER = Size(480, 272)
"""Of the clip that is restyled: all of it passes through the model, which blurs a few pixels whatever their number."""

SIDE_PX = 48
"""What is cut off the nebula, left and right, to be painted."""

NUM_FRAMES = 49
SUBTITLES = ((range(4, 18), "Everything is ready."), (range(30, 44), "Go for launch."))
"""Which frames show which line."""

CAPTIONS = {
    "ball-by-class": "found by its class: mountains recovered from other frames, some of the moving clouds painted",
    "balloon-painted-over": "nothing shows what is behind it: all painted",
    "horse-by-mask": "recovered from other frames, nothing painted",
    "subtitles": "found as text: recovered from the frames without them",
    "cat-restyled": 'all painted, from its gray version and the words "a blue cat"',
    "planet-made-wider": "4:3 made 16:9: both sides painted",
}
"""What the before/after sheet says of each row."""

DEMO_VERSION = b"3"
_VERSION_KEY = b"vace_batch.demo"
_BOX_EVERY_FRAMES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One frame of a demo clip: its picture (H, W, 3) and how much of each pixel its object covers (H, W)."""

    picture_HW3: Picture
    object_HW: Alpha


def write_demo(folder: str | Path) -> Path:
    """Write the clips, the mask files and the manifest into `folder`; return the manifest's path.

    A folder that already holds this version of the demo is left as it is, so that a second run finds its work done.
    """
    root = Path(folder).absolute()
    manifest = root / "manifest.parquet"
    if manifest.exists() and (pq.read_schema(manifest).metadata or {}).get(_VERSION_KEY) == DEMO_VERSION:
        return manifest
    root.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), _VERSION_KEY: DEMO_VERSION})
    table = pa.Table.from_pylist(list(_rows(root)), schema=schema)
    staged = manifest.with_suffix(".partial")
    pq.write_table(table, staged)
    staged.rename(manifest)
    return manifest


def _rows(root: Path) -> Iterator[dict[str, object]]:
    """Yield the manifest's rows, each as soon as its clip is written."""

    def clip(name: str, shown: Iterable[Shown], rate: Fraction = Fraction(25)) -> dict[str, object]:
        frames = (frame.picture_HW3 for frame in shown)
        write_clip(str(root / f"{name}.mp4"), frames, rate=rate, tone_hz=220.0)
        return {"video_uri": f"{name}.mp4", "seed": 1}

    yield {
        **clip("ball", ball_over_the_mountains()),
        "job_id": "ball-by-class",
        "task": "removal",
        "targets": ["ball"],
        "detector": DEMO_DETECTOR,
    }
    balloon = list(balloon_at_rest())
    _write_masks(root / "balloon-masks", balloon)
    yield {
        **clip("balloon", balloon),
        "job_id": "balloon-painted-over",
        "task": "removal",
        "mask_uri": "balloon-masks",
        "background": "off",
    }
    horse = list(horse_on_the_pavement())
    _write_masks(root / "horse-masks", horse)
    yield {
        **clip("horse", horse, Fraction(24)),
        "job_id": "horse-by-mask",
        "task": "removal",
        "mask_uri": "horse-masks",
    }
    yield {
        **clip("rocket", rocket_with_subtitles()),
        "job_id": "subtitles",
        "task": "removal",
        "targets": [TEXT],
    }
    yield {
        **clip("cat", cat_comes_nearer(), Fraction(24000, 1001)),
        "job_id": "cat-restyled",
        "task": "restyle",
        "control": "gray",
        "prompt": "a blue cat",
    }
    yield {
        **clip("planet", (_without_sides(frame) for frame in planet_before_a_nebula())),
        "job_id": "planet-made-wider",
        "task": "outpainting",
        "expand": dict.fromkeys(("left", "right"), SIDE_PX / (SIZE.width - 2 * SIDE_PX)),
    }


def _without_sides(frame: Shown) -> Shown:
    inside = np.s_[:, SIDE_PX:-SIDE_PX]
    return Shown(picture_HW3=frame.picture_HW3[inside], object_HW=frame.object_HW[inside])


def _write_masks(folder: Path, shown: Iterable[Shown]) -> None:
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(shown):
        Image.fromarray(np.where(frame.object_HW > 0, 255, 0).astype(np.uint8)).save(folder / f"{index:04d}.png")


def ball_over_the_mountains() -> Iterator[Shown]:
    """Yield a red ball that flies past still mountains and two moving layers of clouds, before a still camera."""
    wide = Size(2 * SIZE.width, SIZE.height)
    bright = scenery.roughness(wide, 4, fall=1.35, stretch=1.8)
    dark = scenery.roughness(wide, 5, fall=1.35, stretch=1.8)
    far = scenery.mountains(SIZE, 23, base=150, rise=14, colour=(112, 128, 158), haze=(206, 214, 220))
    near = scenery.mountains(SIZE, 31, base=186, rise=16, colour=(56, 70, 98), haze=(150, 166, 186))
    ball = scenery.ball(25, (214, 58, 44))
    for index, share in _moments():
        clouds = (scenery.drifted(bright, index), scenery.drifted(dark, -1.6 * index))
        view = scenery.sky(scenery.MORNING, *(each[:, : SIZE.width] for each in clouds))
        view = scenery.over(scenery.over(view, far), near)
        at = 100 + 160 * share, 135 - 50 * math.sin(math.pi * share)
        yield _seen(*scenery.put(view, ball, at))


def balloon_at_rest() -> Iterator[Shown]:
    """Yield a hot-air balloon that hangs still in an evening sky; no frame shows the sky behind it."""
    bright = scenery.roughness(SIZE, 63, fall=1.55, stretch=1.8)
    dark = scenery.roughness(SIZE, 66, fall=1.55, stretch=1.8)
    view, alpha = scenery.put(scenery.sky(scenery.SUNSET, bright, dark), scenery.balloon(64, 48), (200.0, 96.0))
    yield from itertools.repeat(_seen(view, alpha), NUM_FRAMES)


def planet_before_a_nebula() -> Iterator[Shown]:
    """Yield a planet before a glowing nebula; nothing is to be removed."""
    view, alpha = scenery.put(scenery.nebula(SIZE, 150), scenery.ball(34, (226, 150, 92)), (192.0, 108.0))
    yield from itertools.repeat(_seen(view, alpha), NUM_FRAMES)


def rocket_with_subtitles() -> Iterator[Shown]:
    """Yield a rocket before its launch under a slow pan, with two subtitles and a pause between them."""
    font = ImageFont.load_default(19)
    for index, share in _moments():
        canvas = Image.fromarray(_view(picture("rocket.jpg"), centre=(310.0 + 20 * share, 250.0), width=500.0))
        letters = Image.new("L", canvas.size)
        for line in (line for frames, line in SUBTITLES if index in frames):
            place: dict[str, Any] = {"xy": (SIZE.width / 2, 192), "text": line, "font": font, "anchor": "mm"}
            ImageDraw.Draw(canvas).text(**place, fill="white", stroke_width=2, stroke_fill="black")
            ImageDraw.Draw(letters).text(**place, fill=255, stroke_width=2)
        alpha = np.asarray(letters).astype(np.float32) / 255
        yield Shown(picture_HW3=np.asarray(canvas), object_HW=np.asarray(alpha, np.float32))


def horse_on_the_pavement() -> Iterator[Shown]:
    """Yield a horse, a silhouette filled with pale grass, that trots over a pavement before a still camera."""
    pavement = _tinted(picture("brick.png"), (1.15, 0.82, 0.68))
    coat = _tinted(picture("grass.png") // 3 + 150, (1.12, 1.08, 0.98))
    silhouette = (picture("horse.png")[..., 0] < 128).astype(np.float32)
    silhouette = np.asarray(cv2.resize(silhouette, (150, 123), interpolation=cv2.INTER_AREA), np.float32)
    dressed = np.asarray(cv2.resize(coat, (150, 123), interpolation=cv2.INTER_AREA), np.uint8)
    horse = scenery.Sprite(colours=dressed, alpha=silhouette)
    background = _view(pavement, centre=(256.0, 256.0), width=500.0).astype(np.float32)
    for _, share in _moments():
        at = 70 + 240 * share, 112 - 5 * abs(math.sin(5 * math.pi * share))
        yield _seen(*scenery.put(background, horse, at))


def cat_comes_nearer() -> Iterator[Shown]:
    """Yield Chelsea the cat while the camera closes in; nothing is to be removed."""
    cat = picture("chelsea.png")
    nothing = np.zeros((LARGER.height, LARGER.width), np.float32)
    for _, share in _moments():
        centre = (228.0 - 8 * share, 128.0 + 6 * share)
        yield Shown(picture_HW3=_view(cat, LARGER, centre=centre, width=440.0 - 90 * share), object_HW=nothing)


def keyframed_boxes(objects_HW: list[Alpha]) -> list[dict[str, float]]:
    """Return boxes round the object every 12 frames and at the last, with room for its curved way between them."""
    last = len(objects_HW) - 1
    keys = []
    for index in sorted({*range(0, last, _BOX_EVERY_FRAMES), last}):
        rows, columns = np.nonzero(objects_HW[index] > 0)
        tight = Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        box = tight.pad(6).clip(SIZE) or tight
        keys.append({"x": box.x, "y": box.y, "width": box.width, "height": box.height, "frame": index})
    return keys


def detector_path() -> Path:
    """Return the path of the demo's detector of balls, horses and cars; see objects.md."""
    return Path(__file__).with_name("objects.onnx")


def pictures_folder() -> Path:
    """Return the folder of the scikit-image wheel's pictures.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.origin:
        raise ModuleNotFoundError("the demo's pictures come from scikit-image: pip install scikit-image")
    return Path(found.origin).parent / "data"


@cache
def picture(name: str) -> Picture:
    """Read one of the wheel's pictures, (H, W, 3) uint8; callers must not write to it."""
    with Image.open(pictures_folder() / name) as image:
        return np.asarray(image.convert("RGB"))


def _tinted(picture: Picture, factors: tuple[float, float, float]) -> Picture:
    return np.clip(picture * np.asarray(factors, np.float32), 0, 255).astype(np.uint8)


def _view(picture: Picture, size: Size = SIZE, *, centre: tuple[float, float], width: float) -> Picture:
    """Crop a camera's view of `size`: `width` source pixels across, round `centre` (x, y)."""
    scale = size.width / width
    matrix = np.array(
        [[scale, 0, size.width / 2 - scale * centre[0]], [0, scale, size.height / 2 - scale * centre[1]]], np.float32
    )
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.5 / scale) if scale < 1 else picture
    seen = cv2.warpAffine(
        blurred, matrix, (size.width, size.height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(seen, np.uint8)


def _moments() -> Iterator[tuple[int, float]]:
    """Yield each frame's index, and its place 0..1 in the clip."""
    return ((index, index / (NUM_FRAMES - 1)) for index in range(NUM_FRAMES))


def _seen(levels: scenery.Levels, alpha: Alpha) -> Shown:
    return Shown(picture_HW3=np.rint(np.clip(levels, 0, 255)).astype(np.uint8), object_HW=alpha)


if __name__ == "__main__":
    print(write_demo(sys.argv[1]))
