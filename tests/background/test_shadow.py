"""Shadows: a mask grows into the soft shadow attached to its object, and into no other dark thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest

from tests.support.background_scenes import (
    NUM_FRAMES,
    SIZE,
    Motion,
    Picture,
    moving,
    scenery,
    shaking,
    still,
    views,
    with_object,
)
from vace_batch.background.shadow import grow_into_shadows, shadow_of


def shaded(truth: Sequence[Picture], place: Callable[[int], tuple[int, int]]) -> list[Picture]:
    """A soft shadow beside a moving object."""
    pictures = []
    for index, picture in enumerate(truth):
        x, y = place(index)
        shade = np.zeros(picture.shape[:2], np.float32)
        cv2.ellipse(shade, (x + 28, y + 22), (34, 10), 0, 0, 360, 0.4, -1)
        pictures.append((picture * (1 - cv2.GaussianBlur(shade, (0, 0), 3))[..., None]).astype(np.uint8))
    return pictures


def test_a_mask_grows_into_the_shadow_attached_to_it() -> None:
    truth = views(still)
    clip = with_object(shaded(truth, moving))
    grown = list(grow_into_shadows(clip.read, clip.masks_in, clip.shot, SIZE))
    assert [mask.index for mask in grown] == list(range(NUM_FRAMES))
    for mask in grown[4:-6]:
        x, y = moving(mask.index)
        core = np.zeros((SIZE.height, SIZE.width), np.uint8)
        cv2.ellipse(core, (x + 28, y + 22), (34, 10), 0, 0, 360, 1, -1)
        outside = cv2.dilate(core, np.ones((25, 25), np.uint8)) | clip.masks[mask.index].full(SIZE)
        assert (mask.full(SIZE) & (core > 0)).sum() > 0.9 * core.sum()
        assert (mask.full(SIZE) & (outside == 0)).sum() < 0.02 * core.sum()


@pytest.mark.parametrize("motion", [still, shaking])
def test_a_mask_without_shadow_stays(motion: Motion) -> None:
    clip = with_object(views(motion))
    for mask in grow_into_shadows(clip.read, clip.masks_in, clip.shot, SIZE):
        assert mask.bits.sum() <= 1.02 * clip.masks[mask.index].bits.sum()


def test_a_darker_thing_is_no_shadow() -> None:
    truth = []
    for index, picture in enumerate(views(still)):
        x, y = moving(index)
        beside = picture.copy()
        cv2.rectangle(beside, (x + 20, y + 10), (x + 60, y + 35), (60, 20, 10), -1)
        truth.append(beside)
    clip = with_object(truth)
    for mask in grow_into_shadows(clip.read, clip.masks_in, clip.shot, SIZE):
        assert mask.bits.sum() <= 1.15 * clip.masks[mask.index].bits.sum()


def ground_with_shade(shade: float, tint: float = 0.0) -> tuple[Picture, Picture]:
    """A picture shaded in columns 10..39, and the picture without the shade."""
    ground = scenery()[:80, :120].astype(np.float32)
    seen = ground.copy()
    seen[30:50, 10:40] *= 1 - shade
    seen[30:50, 10:40, 0] += tint
    return seen, ground


@pytest.mark.parametrize(
    ("shade", "tint", "grows"), [(0.4, 0, True), (0.01, 0, False), (0.9, 0, False), (0.3, 90, False)]
)
def test_only_a_darker_ground_of_the_same_colour_is_a_shadow(shade: float, tint: float, grows: bool) -> None:
    observed, ground = ground_with_shade(shade, tint)
    mask = np.zeros((80, 120), np.bool_)
    mask[20:60, 40:70] = True
    shadow = shadow_of(observed, ground, np.ones_like(mask), mask, noise=1.0)
    assert (shadow[32:48, 14:36].mean() > 0.9) == grows
    assert not (shadow & mask).any() and not shadow[:, 80:].any()


def test_a_shadow_that_does_not_touch_the_mask_is_left_alone() -> None:
    observed, ground = ground_with_shade(0.4)
    mask = np.zeros((80, 120), np.bool_)
    mask[20:60, 60:90] = True
    assert not shadow_of(observed, ground, np.ones_like(mask), mask, noise=1.0).any()
