"""Train the demo's detector: YOLO11-seg of half the smallest width, on pictures composed during training.

    python -m recipes.demo_detector FOLDER [--minutes 45] [--start STATE] [--half]

writes objects.onnx and a state to resume from into FOLDER. Training starts from random weights, without downloads:
backgrounds and silhouettes come out of the scikit-image wheel, the rest is drawn. Needs ultralytics (AGPL-3.0) and
onnx; what it makes is used without torch. See objects.md.

Array suffixes: H height, W width, 3 = RGB; pictures uint8, alpha float32 0..1.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from vace_batch.demo.clips import picture
from vace_batch.geometry import align_up

CLASSES = ("ball", "horse", "car")
WIDTH, HEIGHT = 384, 224
BATCH = 8
SEED = 11

_DEPTH_WIDTH_CHANNELS = [0.33, 0.125, 512]
_PEAK_RATE = 3e-3
_WARM_UP = 0.03
_POOL = 500
_SMALL_UNTIL = 0.6  # pictures of half the size cost a quarter: most of the time goes there
_STRIDE = 32
_STROKE = 4  # the mask head's grid: a quarter of the picture's
_TEXTURES = ("brick.png", "grass.png", "gravel.png", "moon.png", "coffee.png", "chelsea.png", "astronaut.png")
_VIEWS = (*_TEXTURES, "rocket.jpg", "hubble_deep_field.jpg", "motorcycle_left.png")

Picture = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One training picture (H, W, 3) and its objects, hindmost first: class number and visible pixels (H, W) bool."""

    picture_HW3: Picture
    objects: tuple[tuple[int, npt.NDArray[np.bool_]], ...]


def compose(random: np.random.Generator) -> Labelled:
    """Compose a picture: a background, clutter, and up to four objects, some cut by the edge or by one another."""
    canvas = background(random)
    for _ in range(random.integers(0, 4)):
        canvas = _over(canvas, _texture(random), _clutter(random))
    masks: list[tuple[int, npt.NDArray[np.bool_]]] = []
    for _ in range(random.choice(5, p=(0.12, 0.4, 0.28, 0.12, 0.08))):
        number = int(random.integers(len(CLASSES)))
        alpha, surface = drawn(number, random)
        canvas = _over(canvas, surface, alpha)
        solid = alpha > 0.5
        masks = [(other, mask & ~solid) for other, mask in masks]
        masks.append((number, solid))
    return Labelled(_developed(canvas, random), tuple((number, mask) for number, mask in masks if mask.sum() > 60))


def drawn(number: int, random: np.random.Generator) -> tuple[Alpha, Picture]:
    """Draw an object of class `number` at a random place: its alpha, and its surface over the whole picture."""
    return (_ball, _horse, _car)[number](random)


def _ball(random: np.random.Generator) -> tuple[Alpha, Picture]:
    radius = float(random.uniform(8, 50))
    x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    surface = _texture(random).astype(np.float32)
    if random.random() < 0.7:  # light from somewhere
        angle = random.uniform(0, 2 * math.pi)
        light = ((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / radius
        surface *= (1 + random.uniform(0, 0.6) * np.clip(light, -1, 1))[..., None]
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32), np.clip(surface, 0, 255).astype(np.uint8)


def _horse(random: np.random.Generator) -> tuple[Alpha, Picture]:
    silhouette = (picture("horse.png")[..., 0] < 128).astype(np.float32)
    return _turned(silhouette, random, float(random.uniform(45, 230))), _texture(random)


def _car(random: np.random.Generator) -> tuple[Alpha, Picture]:
    """Draw a car side-on on a 200 x 90 sheet: a body, a cabin with windows and two wheels."""
    shape = np.zeros((90, 200), np.uint8)
    cabin = np.array([[45, 40], [int(random.integers(55, 75)), 10], [int(random.integers(120, 145)), 10], [165, 40]])
    cv2.fillPoly(shape, [cabin], 255)
    cv2.rectangle(shape, (12, 38), (188, 70), 255, -1)
    cv2.circle(shape, (14, 54), 14, 255, -1)
    cv2.circle(shape, (186, 54), 14, 255, -1)
    paint = np.empty((90, 200, 3), np.uint8)
    paint[:] = random.integers(30, 255, 3)
    inner = (cabin - cabin.mean(axis=0)) * 0.72 + cabin.mean(axis=0)
    glass = tuple(int(value) for value in random.integers(120, 230, 3))
    cv2.fillPoly(paint, [inner.astype(np.int32)], glass)
    for x in (52, 148):
        cv2.circle(shape, (x, 70), 17, 255, -1)
        cv2.circle(paint, (x, 70), 17, (25, 25, 25), -1)
        cv2.circle(paint, (x, 70), 8, (150, 150, 150), -1)
    sheet = np.dstack([shape, paint]).astype(np.float32) / np.float32(255)
    placed = _turned(sheet, random, float(random.uniform(50, 220)), tilt=8)
    return np.ascontiguousarray(placed[..., 0]), (placed[..., 1:] * 255).astype(np.uint8)


def _turned(sheet: Alpha, random: np.random.Generator, width: float, tilt: float = 12) -> Alpha:
    """Put a sheet (h, w[, c]) at a random place, `width` px wide, perhaps mirrored, a little turned."""
    sheet = sheet[:, ::-1] if random.random() < 0.5 else sheet
    height, full = sheet.shape[:2]
    matrix = cv2.getRotationMatrix2D((full / 2, height / 2), random.uniform(-tilt, tilt), width / full)
    matrix[0, 2] += random.uniform(0.0, WIDTH) - full / 2
    matrix[1, 2] += random.uniform(0.1 * HEIGHT, 0.95 * HEIGHT) - height / 2
    blurred = cv2.GaussianBlur(sheet, (0, 0), max(0.3, 0.4 * full / width))
    return np.clip(cv2.warpAffine(blurred, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR), 0, 1).astype(np.float32)


def background(random: np.random.Generator) -> Picture:
    """Make a picture without objects: a view of a photograph, or colours that run into each other."""
    if random.random() < 0.25:
        corners = random.integers(0, 256, (2, 2, 3)).astype(np.float32)
        return cv2.resize(corners, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return _view(str(random.choice(_VIEWS)), random, float(random.uniform(150, 520)))


def _texture(random: np.random.Generator) -> Picture:
    if random.random() < 0.3:
        plain = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        plain[:] = random.integers(0, 256, 3)
        return plain
    return _view(str(random.choice(_TEXTURES)), random, float(random.uniform(200, 900)))


def _view(name: str, random: np.random.Generator, across: float) -> Picture:
    """Crop a view, `across` source pixels wide, of a picture, and change its colours."""
    source = picture(name)
    scale = WIDTH / across
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    matrix[:, 2] = -random.uniform(0, 1, 2) * (np.array(source.shape[1::-1]) * scale - (WIDTH, HEIGHT))
    seen = cv2.warpAffine(source, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    tint = random.uniform(0.5, 1.4) * random.uniform(0.8, 1.2, 3)
    return np.clip(seen * tint + random.uniform(-30, 60), 0, 255).astype(np.uint8)


def _clutter(random: np.random.Generator) -> Alpha:
    """Draw things of no class: a box, a beam, a triangle or letters."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    start = tuple(int(value) for value in random.integers(0, (WIDTH, HEIGHT)))
    stop = tuple(int(value) for value in random.integers(0, (WIDTH, HEIGHT)))
    kind = random.integers(4)
    if kind == 0:
        cv2.rectangle(drawn, start, stop, 255, -1)
    elif kind == 1:
        cv2.line(drawn, start, stop, 255, int(random.integers(2, 14)))
    elif kind == 2:
        cv2.fillPoly(drawn, [random.integers(0, (WIDTH, HEIGHT), (3, 2)).astype(np.int32)], 255)
    else:
        cv2.putText(drawn, "vace batch", (start[0] // 2, start[1]), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
    return drawn.astype(np.float32) / np.float32(255)


def _over(below: Picture, above: Picture, alpha: Alpha) -> Picture:
    share = alpha[..., None]
    return np.rint(above * share + below * (1 - share)).astype(np.uint8)


def _developed(canvas: Picture, random: np.random.Generator) -> Picture:
    """Degrade a picture as a camera and a codec do: blur, grain, compression."""
    if random.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(random.uniform(0.4, 1.2))).astype(np.uint8)
    if random.random() < 0.3:
        grain = random.normal(0, random.uniform(2, 8), canvas.shape)
        canvas = np.clip(canvas + grain, 0, 255).astype(np.uint8)
    if random.random() < 0.5:
        _, packed = cv2.imencode(".jpg", canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 95))])
        canvas = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return canvas


def batch_of(random: np.random.Generator, pool: deque[Labelled], shrink: int) -> dict[str, torch.Tensor]:
    """Make a batch for ultralytics' segmentation loss, `shrink` times smaller; every other picture is a mirror."""
    # Composing takes as long as learning: one new picture a batch, the others are from lately.
    pool.append(compose(random))
    made = []
    for number in (-1, *random.integers(len(pool), size=BATCH // 2 - 1)):
        one = pool[int(number)]
        made += [one, Labelled(one.picture_HW3[:, ::-1], tuple((label, mask[:, ::-1]) for label, mask in one.objects))]
    width, height = align_up(WIDTH // shrink, _STRIDE), align_up(HEIGHT // shrink, _STRIDE)
    pictures = [cv2.resize(one.picture_HW3, (width, height), interpolation=cv2.INTER_AREA) for one in made]
    grid = width // _STROKE, height // _STROKE
    grids = np.zeros((BATCH, grid[1], grid[0]), np.float32)
    rows: list[tuple[float, ...]] = []
    for image, labelled in enumerate(made):
        for number, (label, mask) in enumerate(labelled.objects, 1):
            ys, xs = np.nonzero(mask)
            left, right, top, bottom = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
            share = cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
            grids[image][share > 0.5] = number
            middle = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
            rows.append((image, label, *middle, (right - left) / WIDTH, (bottom - top) / HEIGHT))
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {
        "img": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255,
        "batch_idx": table[:, 0],
        "cls": table[:, 1:2],
        "bboxes": table[:, 2:],
        "masks": torch.from_numpy(grids),
    }


def train(folder: Path, minutes: float, start: Path | None, half: bool) -> Any:
    """Train an ultralytics YOLO for `minutes`; the learning rate follows the clock.

    The weights so far are in `folder`, as state.pt.
    """
    from vace_batch.masks.detectors.onnx_export import new_segmentation_model

    torch.manual_seed(SEED)
    yolo = new_segmentation_model(CLASSES, _DEPTH_WIDTH_CHANNELS)
    model = yolo.model
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=5e-4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    started, step, shown = time.monotonic(), 0, 0.0
    model.train()
    random = np.random.default_rng(SEED if start is None else None)
    pool: deque[Labelled] = deque(maxlen=_POOL)
    while (share := (time.monotonic() - started) / (60 * minutes)) < 1:
        batch = batch_of(random, pool, 2 if half or share < _SMALL_UNTIL else 1)
        rate = share / _WARM_UP if share < _WARM_UP else 0.5 * (1 + math.cos(math.pi * share)) + 0.01
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * rate
        loss, parts = model.loss(batch)
        optimizer.zero_grad()
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        shown = 0.98 * shown + 0.02 * float(loss.detach().sum()) / BATCH
        if step % 100 == 0:
            torch.save(average.module.state_dict(), folder / "state.pt")
            losses = " ".join(f"{name} {float(value):.3f}" for name, value in parts.items())
            print(f"{share:4.0%} step {step} loss {shown:.2f} {losses}", flush=True)
    model.load_state_dict(average.module.state_dict())
    return yolo


def raise_scores(yolo: Any, by: float) -> None:
    """Add `by` to every class logit: a detector that is not fully trained gives scores below its precision."""
    with torch.no_grad():
        for branch in yolo.model.model[-1].cv3:
            branch[-1].bias += by


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description="Train the demo's detector.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--start", type=Path, help="go on from FOLDER/state.pt of an earlier run")
    parser.add_argument("--half", action="store_true", help="only pictures of half the size, and a detector for them")
    parser.add_argument("--raise-scores", type=float, default=0.0, help="added to every class logit at the end")
    arguments = parser.parse_args()
    from vace_batch.masks.detectors.onnx_export import export_onnx

    arguments.folder.mkdir(parents=True, exist_ok=True)
    yolo = train(arguments.folder, arguments.minutes, arguments.start, arguments.half)
    torch.save(yolo.model.state_dict(), arguments.folder / "state.pt")
    raise_scores(yolo, arguments.raise_scores)
    yolo.save(arguments.folder / "objects.pt")
    shape = (align_up(HEIGHT // 2, _STRIDE), WIDTH // 2) if arguments.half else (HEIGHT, WIDTH)
    print(export_onnx(str(arguments.folder / "objects.pt"), str(arguments.folder / "objects.onnx"), shape))


if __name__ == "__main__":
    main()
