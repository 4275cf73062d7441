"""Recovered pixels survive their file."""

from __future__ import annotations

import io

import numpy as np
import pytest

from vace_batch.background.patches import Patch, PatchReader, write_patches
from vace_batch.geometry import Box


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_patches_come_back_as_they_were(dtype: type) -> None:
    rng = np.random.default_rng(0)
    made = []
    for index in range(0, 200, 3):
        box = Box(int(rng.integers(0, 50)), 3, int(rng.integers(1, 40)), int(rng.integers(1, 30)))
        shape = (box.height, box.width)
        rgb = rng.integers(0, np.iinfo(dtype).max, (*shape, 3), dtype)
        made.append(Patch(index=index, box=box, rgb=rgb, known=rng.random(shape) > 0.3))
    file = io.BytesIO()
    assert write_patches(file, made) == sum(int(patch.known.sum()) for patch in made)
    read = PatchReader(file).get(30, 120)
    assert list(read) == [patch.index for patch in made if 30 <= patch.index < 120]
    for patch in made:
        if patch.index in read:
            found = read[patch.index]
            assert found.box == patch.box and (found.known == patch.known).all() and found.rgb.dtype == dtype
            assert (found.rgb[patch.known] == patch.rgb[patch.known]).all()


def test_a_patch_that_does_not_fit_its_box_is_refused() -> None:
    with pytest.raises(ValueError, match="expected rgb"):
        Patch(index=0, box=Box(0, 0, 4, 4), rgb=np.zeros((4, 5, 3), np.uint8), known=np.zeros((4, 4), np.bool_))
