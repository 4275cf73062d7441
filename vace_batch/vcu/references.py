"""Prepare reference pictures: find the subject, cut it out when asked, and enlarge it on a white canvas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.vcu.controls.draw import at_most
from vace_batch.vcu.unit import Pixels

_WHITE = 255
_GRABCUT_PX, _GRABCUT_ROUNDS = 512, 5
_RIM = 0.06
"""Of a picture in which a salient subject is looked for, the rim that is taken for background."""

_SPECK_SHARE = 0.05
"""Of the largest part's area: smaller parts of what is cut out are dropped."""

_FACE_MARGIN = 0.35
_FACE_STEP, _FACE_GROWTH, _FACE_MIN_SHARE = 1.0, 1.15, 0.08


def prepare_references(
    job: Job, pictures: Sequence[Pixels], masks: Sequence[Pixels | None], size: Size
) -> list[Pixels]:
    """Return the canvases of a job's references, (H, W, 3) at `size`, in their order.

    `masks` holds, for each picture, the white-is-subject mask that the job gives for it, (h, w), or None.

    Raises:
        ClipError: a box lies outside its picture, a mask has another size or is empty, there is no face.
    """
    keys = job.reference_boxes or (None,) * len(pictures)
    canvases = []
    for number, (picture, key, mask) in enumerate(zip(pictures, keys, masks, strict=True)):
        box = None if key is None else _reference_box(key, picture, number)
        try:
            subject, found = (
                _subject(picture, box, job.reference_mode, job.reference_background == "white")
                if mask is None
                else _masked(picture, mask)
            )
        except ClipError as error:
            raise ClipError(error.code, f"reference {number}: {error.reason}") from None
        canvases.append(fit_reference(subject, box or found, size))
    return canvases


def fit_reference(picture: Pixels, box: Box | None, size: Size) -> Pixels:
    """Crop `picture` to `box` and enlarge the crop to fit a white canvas of `size`; the aspect is kept.

    The crop gives the subject as many tokens as there are and takes its position away.
    """
    subject = picture if box is None else picture[box.slices]
    height, width = subject.shape[:2]
    scale = min(size.width / width, size.height / height)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    shrinks = scale < 1
    resized = cv2.resize(subject, fitted, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    canvas = np.full((size.height, size.width, 3), _WHITE, np.uint8)
    top, left = (size.height - fitted[1]) // 2, (size.width - fitted[0]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = resized
    return canvas


def cut_out(picture: Pixels, box: Box) -> NDArray[np.bool_]:
    """Segment the subject inside `box` by GrabCut: (h, w) bool like the picture, false outside the box.

    A box as large as the picture leaves its rim as the only known background. Where nothing is found, the box.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, _GRABCUT_PX / max(width, height))
    small = at_most(picture, _GRABCUT_PX)
    rows, columns = small.shape[:2]
    rim = max(1, round(_RIM * min(rows, columns)))
    left, top = max(round(box.x * scale), rim), max(round(box.y * scale), rim)
    right = min(round(box.right * scale), columns - rim)
    bottom = min(round(box.bottom * scale), rows - rim)
    whole = np.zeros((height, width), np.bool_)
    whole[box.slices] = True
    if right - left < 2 or bottom - top < 2:
        return whole
    labels = np.full((rows, columns), cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    models: tuple[NDArray[np.float64], NDArray[np.float64]] = (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(0)  # its clusters start at random
    cv2.grabCut(small[..., ::-1].copy(), labels, (0, 0, 0, 0), *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    subject = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    subject = _filled_parts(subject)
    if not subject.any():
        return whole
    return np.asarray(cv2.resize(subject, (width, height), interpolation=cv2.INTER_LINEAR) > 0, np.bool_) & whole


def _masked(picture: Pixels, mask: Pixels) -> tuple[Pixels, Box]:
    if mask.shape != picture.shape[:2]:
        expected, got = f"{picture.shape[1]}x{picture.shape[0]}", f"{mask.shape[1]}x{mask.shape[0]}"
        raise ClipError("reference_mask_size_mismatch", f"expected a mask of {expected}, got {got}")
    if not (mask > 127).any():
        raise ClipError("reference_mask_empty", "the mask has no white pixel")
    return _on_white(picture, mask > 127)


def _subject(picture: Pixels, box: Box | None, mode: str, white: bool) -> tuple[Pixels, Box | None]:
    whole = Box(0, 0, picture.shape[1], picture.shape[0])
    if mode == "face" and box is None:
        box = largest_face(picture)
    if mode == "salient" or white:
        return _on_white(picture, cut_out(picture, box or whole))
    return picture, box


def _on_white(picture: Pixels, subject: NDArray[np.bool_]) -> tuple[Pixels, Box]:
    ys, xs = np.flatnonzero(subject.any(axis=1)), np.flatnonzero(subject.any(axis=0))
    box = Box(int(xs[0]), int(ys[0]), int(xs[-1] - xs[0]) + 1, int(ys[-1] - ys[0]) + 1)
    return np.asarray(np.where(subject[..., None], picture, _WHITE), np.uint8), box


def _filled_parts(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill the holes of the large parts and drop the specks, so that a collar does not cut off a head."""
    contours, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    kept = [one for one, area in zip(contours, areas, strict=True) if area >= _SPECK_SHARE * max(areas)]
    return np.asarray(cv2.drawContours(np.zeros_like(bits), kept, -1, 1, cv2.FILLED), np.uint8)


def largest_face(picture: Pixels) -> Box:
    """Find the largest frontal face, with a margin for hair and chin, by scikit-image's cascade.

    Raises:
        ClipError: `no_face`.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, _GRABCUT_PX / max(width, height))
    small = at_most(picture, _GRABCUT_PX)
    side = max(24, round(_FACE_MIN_SHARE * min(small.shape[:2])))
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=_FACE_GROWTH,
        step_ratio=_FACE_STEP,
        min_size=(side, side),
        max_size=(min(small.shape[:2]),) * 2,
    )
    if not found:
        raise ClipError("no_face", "no frontal face was found; give the face's box in reference_boxes")
    best = max(found, key=lambda face: face["width"] * face["height"])
    x, y, w, h = (best[name] / scale for name in ("c", "r", "width", "height"))
    grown = Box(
        round(x - _FACE_MARGIN * w), round(y - _FACE_MARGIN * h), *(round(s * (1 + 2 * _FACE_MARGIN)) for s in (w, h))
    )
    return grown.clip(Size(width, height)) or Box(0, 0, width, height)


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    filename: Any = lbp_frontal_face_cascade_filename
    return Cascade(filename())


def _reference_box(key: BoxKey, picture: Pixels, number: int) -> Box:
    height, width = picture.shape[:2]
    left, top = round(key.x), round(key.y)
    box = Box(left, top, max(1, round(key.width)), max(1, round(key.height))).clip(Size(width, height))
    if box is None:
        raise ClipError(
            "reference_box_outside",
            f"reference_boxes[{number}]: expected a box in the {width}x{height} picture, got x {key.x}, y {key.y}",
        )
    return box
