"""The digest of a window's masks and recovered pixels: its own content and place in time count, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vace_batch.background.patches import Patch, PatchReader, write_patches
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, MaskReader, box_mask, write_masks
from vace_batch.planning.windows import Window
from vace_batch.steps.digest import known_digest

SIZE = Size(64, 48)
WINDOW = Window(region=0, start=4, stop=9, num_frames=5, box=Box(0, 0, 64, 48))
MASKS = (box_mask(4, Box(4, 4, 8, 8)), box_mask(6, Box(5, 4, 8, 8)))
NONE = range(0)


def reader(path: Path, *masks: FrameMask) -> MaskReader:
    write_masks(path, SIZE, masks)
    return MaskReader(path)


def patches(path: Path, level: int) -> PatchReader:
    box = Box(4, 4, 2, 2)
    write_patches(path, [Patch(index=5, box=box, rgb=np.full((2, 2, 3), level), known=np.ones((2, 2), np.bool_))])
    return PatchReader(path)


def test_masks_outside_the_window_do_not_count(tmp_path: Path) -> None:
    inside = known_digest([reader(tmp_path / "a", *MASKS)], None, NONE, WINDOW)
    around = (box_mask(3, Box(0, 0, 9, 9)), *MASKS, box_mask(9, Box(0, 0, 9, 9)))
    assert known_digest([reader(tmp_path / "b", *around)], None, NONE, WINDOW) == inside


def test_frames_count_from_the_windows_first(tmp_path: Path) -> None:
    later = [replace(mask, index=mask.index + 7) for mask in MASKS]
    here = known_digest([reader(tmp_path / "a", *MASKS)], None, NONE, WINDOW)
    assert known_digest([reader(tmp_path / "b", *later)], None, NONE, replace(WINDOW, start=11, stop=16)) == here
    assert known_digest([reader(tmp_path / "b")], None, NONE, WINDOW) != here


@pytest.mark.parametrize("other", [box_mask(4, Box(4, 4, 8, 9)), box_mask(5, Box(4, 4, 8, 8))])
def test_another_mask_is_another_digest(tmp_path: Path, other: FrameMask) -> None:
    one = known_digest([reader(tmp_path / "a", MASKS[0])], None, NONE, WINDOW)
    assert known_digest([reader(tmp_path / "b", other)], None, NONE, WINDOW) != one


def test_the_kind_of_masks_the_new_frames_and_the_recovered_pixels_count(tmp_path: Path) -> None:
    masks, empty = reader(tmp_path / "a", *MASKS), reader(tmp_path / "b")
    dark, light = patches(tmp_path / "c", 10), patches(tmp_path / "d", 200)
    digests = [
        known_digest([masks], None, NONE, WINDOW),
        known_digest([empty, masks], None, NONE, WINDOW),
        known_digest([masks], None, range(6, 9), WINDOW),
        known_digest([masks], dark, NONE, WINDOW),
        known_digest([masks], light, NONE, WINDOW),
    ]
    assert len(set(digests)) == len(digests)
