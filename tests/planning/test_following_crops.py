"""Test a crop that follows its object between windows: the generated pixels must not move with the crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size
from vace_batch.planning.windows import Shot, Window, WindowLimits, plan_clip
from vace_batch.stitch.regions import RegionPatches
from vace_batch.video.scaling import resize

FRAME = Size(960, 240)
NUM_FRAMES = 90
NATIVE = WindowLimits(max_tokens=32_760, max_frames=33, overlap_frames=8, min_side=64)


def texture() -> NDArray[np.uint8]:
    """Make soft noise, (H, W, 3), in which a shift of a fiftieth of a pixel can be measured."""
    noise = np.random.default_rng(0).normal(128, 60, (FRAME.height, FRAME.width, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2.5) * 4 - 384, 0, 255).astype(np.uint8)


def shift_of(moved: NDArray[np.floating], still: NDArray[np.floating]) -> NDArray[np.float64]:
    """Measure the shift (x, y), up to about a pixel, that best explains the difference of two (H, W) pictures."""
    down, across = np.gradient(still.astype(np.float64))
    slopes = np.stack([-across.ravel(), -down.ravel()], axis=1)
    return np.linalg.lstsq(slopes, (moved - still).ravel().astype(np.float64), rcond=None)[0]


def shifts_px(limits: WindowLimits, moved_px: int = 0) -> NDArray[np.float64]:
    """Return the shift between the fill and the picture in each frame, (T, 2), for a model that returns its input.

    `moved_px` cuts every second window out at another place than where it goes back to.
    """
    picture = texture()
    boxes = {index: Box(20 + 9 * index, 80, 64, 64) for index in range(NUM_FRAMES)}
    shots = [Shot(start=0, stop=NUM_FRAMES)]
    [region], windows = plan_clip({i: (box,) for i, box in boxes.items()}, shots, FRAME, limits)
    assert len({window.box for window in windows}) == len(windows) >= 4, "the crop follows"

    def open_window(window: Window) -> Iterator[NDArray[np.uint8]]:
        aside = moved_px * (windows.index(window) % 2)
        crop = picture[window.box.shift(aside, 0).slices]
        return iter([resize(crop, region.size)] * window.num_frames)

    patches = RegionPatches(region, windows, open_window)
    found = []
    for index, box in boxes.items():
        found.append(shift_of(patches.at(index, box).mean(axis=-1), picture[box.slices].mean(axis=-1)))
    return np.array(found)


@pytest.mark.parametrize("max_tokens", [NATIVE.max_tokens, 300])
def test_the_fill_stays_where_the_picture_is(max_tokens: int) -> None:
    """Test at the crop's own size and shrunk for the model: against the picture and from frame to frame."""
    shifts = shifts_px(replace(NATIVE, max_tokens=max_tokens))
    assert np.abs(shifts).max() < 0.02
    assert np.abs(np.diff(shifts, axis=0)).max() < 0.02


def test_a_shift_of_one_pixel_would_be_seen() -> None:
    shifts = shifts_px(NATIVE, moved_px=1)
    assert np.abs(shifts).max() > 0.8 and np.abs(np.diff(shifts, axis=0)).max() > 0.05
