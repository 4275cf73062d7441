"""Make a window's arrays: source frames on the canvas, masks at model size, and the scales of a shot's controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vace_batch.background.patches import Patch
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.manifest.job import Job
from vace_batch.masks.refine import at_least_token, subtract
from vace_batch.masks.store import FrameMask
from vace_batch.planning.windows import Region, Shot, Window
from vace_batch.vcu.controls.models import ControlModels
from vace_batch.vcu.controls.videos import MEASURED, MEASURED_FRAMES, Scale, measure
from vace_batch.vcu.unit import Pixels
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import read_frames

_MIDDLE_GRAY = 127
"""Value of frames that the source does not have; they are neutral, so the value is never seen."""


def canvas_frames(
    path: str, canvas: Canvas, window: Window, span: range, start_pts: int
) -> Iterator[tuple[int, Pixels]]:
    """Yield the canvas frame number and the pixels of `window.box`, (h, w, 3), of every frame of a window.

    `span` are the canvas's frames that the source has, `start_pts` the time of the window's first of them. Beyond the
    source's picture its edge is repeated, so that nothing else bleeds in where the crop is resized.

    Raises:
        ClipError: `source_changed`, and what reading raises.
    """
    first, last = max(window.start, span.start), min(window.stop, span.stop)
    frames = read_frames(path, first - span.start, last - span.start, start_pts=start_pts) if first < last else iter(())
    visible = window.box.intersect(canvas.source)
    for index in range(window.start, window.stop):
        if index not in span:
            yield index, np.full((window.box.height, window.box.width, 3), _MIDDLE_GRAY, np.uint8)
            continue
        frame = next(frames, None)
        if frame is None:
            wanted = f"frames {first - span.start}..{last - span.start - 1}"
            raise ClipError(
                "source_changed", f"{wanted}: only some of these frames could be read again", retryable=True
            )
        if visible is None:
            yield index, np.full((window.box.height, window.box.width, 3), _MIDDLE_GRAY, np.uint8)
        else:
            yield index, _on_canvas(frame.rgb(visible.shift(-canvas.source.x, -canvas.source.y)), visible, window.box)


def _on_canvas(crop: Pixels, visible: Box, box: Box) -> Pixels:
    if visible == box:
        return crop
    top, left = visible.y - box.y, visible.x - box.x
    bottom, right = box.bottom - visible.bottom, box.right - visible.right
    return np.asarray(cv2.copyMakeBorder(crop, top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8)


def model_mask(
    mask: FrameMask | None, protected: FrameMask | None, frame: Size, box: Box, region: Region
) -> NDArray[np.bool_]:
    """Crop a frame's mask to `box` and shrink it to model size; a model pixel is masked if any source pixel is."""
    if mask is None:
        return np.zeros((region.size.height, region.size.width), np.bool_)
    grown = subtract(at_least_token(mask, frame, region.token_px), protected)
    bits = (grown or mask).within(box)
    if box.size == region.size:
        return bits
    shrunk = cv2.resize(bits.astype(np.float32), (region.size.width, region.size.height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk > 0, np.bool_)


def with_recovered(crop: Pixels, box: Box, patch: Patch | None) -> Pixels:
    """Put recovered pixels into the crop `box` of a frame, in place."""
    common = None if patch is None else patch.box.intersect(box)
    if patch is None or common is None:
        return crop
    inner = common.shift(-patch.box.x, -patch.box.y).slices
    here = crop[common.shift(-box.x, -box.y).slices]
    here[patch.known[inner]] = patch.rgb8[inner][patch.known[inner]]
    return crop


def measure_shots(
    job: Job, path: str, shots: Sequence[Shot], pts: Sequence[int], models: ControlModels
) -> tuple[dict[str, Scale], ...]:
    """Measure, from a few frames of each shot, the scales of the controls that need one.

    Raises:
        ClipError: the weights cannot be used, and what reading raises.
    """
    measured = [name for name in job.controls if name in MEASURED]
    if not measured:
        return ()
    scales: list[dict[str, Scale]] = []
    for shot in shots:
        pairs = list(_sampled_pairs(path, shot, pts))
        scales_of_shot = {
            name: measure(name, pairs, models.load(name, job.control_weights) if name in CONTROL_NETWORKS else None)
            for name in measured
        }
        scales.append({name: scale for name, scale in scales_of_shot.items() if scale is not None})
    return tuple(scales)


def _sampled_pairs(path: str, shot: Shot, pts: Sequence[int]) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield (frame, next frame) at evenly spread places of a shot; a shot of one frame yields the frame twice."""
    last = max(shot.start, shot.stop - 2)
    for index in sorted({round(place) for place in np.linspace(shot.start, last, MEASURED_FRAMES)}):
        frames = read_frames(path, index, min(index + 2, shot.stop), start_pts=int(pts[index]))
        pair = [frame.rgb() for frame in frames]
        yield pair[0], pair[-1]
