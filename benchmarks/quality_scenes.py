"""The scenes of the quality set: clips with an object, the same clips without the object, and the object's masks.

Every scene is made on the spot from seeds, photographs of scikit-image and, where the folder DATA is given, the cases
with a known truth in DATA/cases and the films in DATA/real. Each background and case belongs to one half only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.quality_grounds import Levels, Random, Sprite, ground, sprite
from benchmarks.quality_plan import CASES, SPECS, Half, Spec
from vace_batch.geometry import Box, Size, union_of
from vace_batch.manifest.job import FILE_DILATION
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import Bits, FrameMask, make_mask
from vace_batch.video.reader import read_frames

RgbImage = npt.NDArray[np.uint8]

_LEAST_PX = 12
"""An object with fewer pixels in the picture counts as absent."""

_LEAST_ALPHA = 0.08
"""A pixel belongs to the object from this opacity on."""

_MARGIN_PX = 40
_MOST_WIDTH_PX = 384


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip with an object (`source`) and without the object (`truth`), frames of (H, W, 3).

    `objects` has the object's exact pixels (H, W) of each frame that shows the object; `masks` are dilated as a run's
    are, and may cover frames without the object. `camera` is how far the background has moved in each frame, in pixels
    to the right and down; empty where it is unknown.
    """

    name: str
    kind: str
    half: Half
    source: Sequence[RgbImage]
    truth: Sequence[RgbImage]
    objects: Mapping[int, Bits]
    masks: Mapping[int, FrameMask]
    cuts: tuple[int, ...] = ()
    camera: tuple[tuple[float, float], ...] = ()

    @property
    def size(self) -> Size:
        return Size(self.truth[0].shape[1], self.truth[0].shape[0])


def scenes(data: Path | None, only: Collection[str] | None = None) -> Iterator[Scene]:
    """Make the scenes one after the other, of `only` these names if given; without `data` the drawn ones alone."""
    for spec in SPECS:
        if (only is None or spec.name in only) and (data is not None or not spec.needs_data):
            yield drawn(spec, data)
    for name, half in CASES.items():
        if data is not None and (only is None or name in only):
            yield case_scene(cases_folder(data) / name, half)


def cases_folder(data: Path) -> Path:
    """Return the folder of the cases; DATA itself may be this folder."""
    return data / "cases" if (data / "cases").is_dir() else data


def drawn(spec: Spec, data: Path | None) -> Scene:
    """Draw the scene of `spec`."""
    random = np.random.default_rng(spec.seed)
    truths, camera = _truths(spec, data, random)
    thing = _sprite(spec, data, truths[0], random)
    sources, objects = [], {}
    for index, truth in enumerate(truths):
        noise = np.random.default_rng((spec.seed, index)).normal(0, 1, truth.shape) * spec.noise
        shown, alpha = truth, None
        if index in range(*spec.present):
            shown, alpha = _composed(truth, thing, _place(spec, index), spec)
        sources.append(_samples(shown + noise))
        truths[index] = truth + noise
        if alpha is not None and (alpha > _LEAST_ALPHA).sum() >= _LEAST_PX:
            objects[index] = alpha > _LEAST_ALPHA
    return Scene(
        name=spec.name,
        kind=spec.kind,
        half=spec.half,
        source=sources,
        truth=[_samples(truth) for truth in truths],
        objects=objects,
        masks=_masks(spec.masks, objects, spec.size, len(sources), random),
        cuts=(spec.frames // 2,) if spec.cut else (),
        camera=camera,
    )


def _samples(levels: Any) -> RgbImage:
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _truths(spec: Spec, data: Path | None, random: Random) -> tuple[list[Any], tuple[tuple[float, float], ...]]:
    """Make the frames without the object, and the way of the background in each frame (empty: unknown)."""
    if spec.film and not spec.still:
        assert data is not None
        return [frame.astype(np.float32) for frame in _film(spec, data)], ()
    if spec.still:
        assert data is not None
        picture = next(iter(_film(replace(spec, frames=1), data, 2))).astype(np.float32)
    else:
        picture = ground(spec.ground, Size(2 * spec.size.width, 2 * spec.size.height), random)
    after = ground(spec.ground, Size(2 * spec.size.width, 2 * spec.size.height), random) if spec.cut else picture
    frames, camera = [], []
    for index in range(spec.frames):
        x, y = (spec.pan[0] * index, spec.pan[1] * index)
        if spec.shake:
            x, y = (at + float(np.random.default_rng((spec.seed, index, 7)).normal(0, spec.shake)) for at in (x, y))
        zoom = (1 + spec.zoom) ** index
        matrix = np.array([[1 / zoom, 0, spec.size.width / 2 - x], [0, 1 / zoom, spec.size.height / 2 - y]])
        frames.append(_viewed(after if spec.cut and index >= spec.frames // 2 else picture, matrix, spec.size))
        camera.append((x, y))
    return frames, () if spec.zoom else tuple(camera)


def _viewed(picture: Levels, matrix: Any, size: Size) -> Any:
    """Render the camera's view of a picture: the frame's coordinates times `matrix` are the picture's."""
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (size.width, size.height), flags=how, borderMode=cv2.BORDER_REFLECT)


def _film(spec: Spec, data: Path, enlarged: int = 1) -> Iterator[RgbImage]:
    """Read frames of a real film, cropped and scaled."""
    path = str(data / "real" / f"{spec.film}.mp4")
    size = spec.size.width * enlarged, spec.size.height * enlarged
    for frame in read_frames(path, spec.start, spec.start + spec.frames):
        box = spec.crop or Box(0, 0, frame.size.width, frame.size.height)
        yield np.asarray(cv2.resize(frame.rgb(box), size, interpolation=cv2.INTER_AREA), np.uint8)


def _sprite(spec: Spec, data: Path | None, around: Levels, random: Random) -> Sprite:
    if not spec.cutout:
        return sprite(spec.shape, spec.paint, spec.size_px, around, random)
    assert data is not None
    return _cut_out(cases_folder(data) / spec.cutout, spec.size_px)


def _cut_out(folder: Path, size_px: int) -> Sprite:
    """Cut the real object out of a case: the frame in which most of the object is seen."""
    case = json.loads((folder / "case.json").read_text())
    size = Size(case["width"], case["height"])
    mask = max(read_masks(str(folder / "mask.mkv"), size, case["n_frames"]), key=lambda each: int(each.bits.sum()))
    source = str(next(folder.glob("input.*")))
    frame = next(read_frames(source, mask.index, mask.index + 1)).rgb(mask.box).astype(np.float32)
    alpha = cv2.erode(np.pad(mask.bits, 2).astype(np.float32), np.ones((3, 3)))
    frame = np.pad(frame, ((2, 2), (2, 2), (0, 0)), mode="edge")
    scale = size_px / max(alpha.shape)
    to = max(4, round(alpha.shape[1] * scale)), max(4, round(alpha.shape[0] * scale))
    return Sprite(
        rgb=np.asarray(cv2.resize(frame, to, interpolation=cv2.INTER_AREA), np.float32),
        alpha=np.asarray(cv2.resize(alpha, to, interpolation=cv2.INTER_AREA), np.float32),
    )


def _place(spec: Spec, index: int) -> tuple[float, float]:
    """Compute the centre of the object in a frame."""
    x = spec.at[0] * spec.size.width + spec.speed[0] * index
    y = spec.at[1] * spec.size.height + spec.speed[1] * index + spec.sway * float(np.sin(index / 4))
    return x, y


def _composed(truth: Any, thing: Sprite, centre: tuple[float, float], spec: Spec) -> tuple[Any, Any]:
    """Compose the object, with its shadow, over a frame: the frame, and the opacity of object and shadow."""
    height, width = thing.alpha.shape
    matrix = np.array([[1, 0, centre[0] - width / 2], [0, 1, centre[1] - height / 2]], np.float32)
    size = spec.size.width, spec.size.height
    alpha = cv2.warpAffine(thing.alpha, matrix, size)
    rgb = cv2.warpAffine(thing.rgb, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    shade = np.zeros_like(alpha)
    if spec.shadow:
        moved = np.array([[1, 0, centre[0] - width / 2 + width / 4], [0, 1, centre[1] - height / 2 + height / 6]])
        shade = spec.shadow * cv2.GaussianBlur(cv2.warpAffine(thing.alpha, moved, size), (0, 0), 5)
    shaded = truth * (1 - shade[..., None])
    return rgb * alpha[..., None] + shaded * (1 - alpha[..., None]), np.maximum(alpha, shade)


def case_scene(folder: Path, half: Half) -> Scene:
    """Make the scene of a case: 24 frames from the middle of the masked range, cropped round the object."""
    case = json.loads((folder / "case.json").read_text())
    size = Size(case["width"], case["height"])
    name = "mask_full.mkv" if (folder / "mask_full.mkv").exists() else "mask.mkv"
    masks = {mask.index: mask for mask in read_masks(str(folder / name), size, case["n_frames"])}
    masked = sorted(masks)
    start = max(0, masked[len(masked) // 2] - 12)
    stop = min(case["n_frames"], start + 24)
    inside = [masks[index] for index in range(start, stop) if index in masks]
    box = union_of(mask.box for mask in inside)
    assert box is not None
    box = box.pad(_MARGIN_PX).clip(size)
    assert box is not None
    scale = min(1.0, _MOST_WIDTH_PX / box.width)
    to = Size(int(box.width * scale) // 2 * 2, int(box.height * scale) // 2 * 2)
    paths = (str(next(folder.glob(f"{which}.*"))) for which in ("input", "gt"))
    source, truth = ([_scaled(frame.rgb(box), to) for frame in read_frames(path, start, stop)] for path in paths)
    objects = {mask.index - start: _scaled(mask.within(box).astype(np.uint8) * 255, to) > 64 for mask in inside}
    return Scene(
        name=folder.name,
        kind="case",
        half=half,
        source=source,
        truth=truth,
        objects=objects,
        masks=_masks("exact", objects, to, len(source), np.random.default_rng(0)),
        cuts=tuple(cut - start for cut in case["cuts"] if start < cut < stop),
    )


def _scaled(frame: RgbImage, size: Size) -> RgbImage:
    return np.asarray(cv2.resize(frame, (size.width, size.height), interpolation=cv2.INTER_AREA), np.uint8)


def _masks(kind: str, objects: Mapping[int, Bits], size: Size, count: int, random: Random) -> dict[int, FrameMask]:
    """Make the masks that a run would use, of one kind; each is dilated as the masks of a file are."""
    bits = {index: _shaped(kind, each, random) for index, each in objects.items()}
    if kind == "static box":
        together = _filled_box(np.logical_or.reduce(list(objects.values())))
        bits = dict.fromkeys(range(count), together)
    if kind == "lingering" and max(bits) + 1 < count:
        bits |= {index: bits[max(objects)] for index in range(max(objects) + 1, min(count, max(objects) + 6))}
    masks = {}
    for index, each in sorted(bits.items()):
        mask = make_mask(index, each)
        assert mask is not None
        masks[index] = dilate(mask, size, FILE_DILATION)
    return masks


def _filled_box(bits: Bits) -> Bits:
    box = np.zeros_like(bits)
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def _shaped(kind: str, bits: Bits, random: Random) -> Bits:
    if kind == "hull":
        points = cv2.findNonZero(bits.astype(np.uint8))
        return cv2.fillConvexPoly(np.zeros(bits.shape, np.uint8), cv2.convexHull(points), 1).view(np.bool_)
    if kind == "box":
        return _filled_box(bits)
    if kind == "loose":
        return cv2.dilate(bits.view(np.uint8), np.ones((17, 17), np.uint8)).view(np.bool_)
    if kind == "rough":
        small = cv2.resize(bits.astype(np.float32), (bits.shape[1] // 6, bits.shape[0] // 6), interpolation=3)
        big = cv2.resize((small > 0.15).astype(np.float32), bits.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray((big > 0.3) | bits, np.bool_)
    if kind == "jitter":
        return _jittered(bits, random)
    return bits


def _jittered(bits: Bits, random: Random) -> Bits:
    """Draw a detector's box: 4% larger, each side off by up to 4% of the object, anew in every frame."""
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    off = 0.04 + random.uniform(-0.04, 0.04, 4)
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    box = np.zeros_like(bits)
    top, left = round(rows[0] - off[0] * height), round(columns[0] - off[1] * width)
    bottom, right = round(rows[-1] + 1 + off[2] * height), round(columns[-1] + 1 + off[3] * width)
    box[max(0, top) : bottom, max(0, left) : right] = True
    return box
