"""Windows of a user's own videos: within one shot, at the asked size, decided by the generator alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import Media, make
from vace_batch.errors import UsageError
from vace_batch.geometry import Size
from vace_batch.vace.training.archive import Archive


def test_a_window_has_the_asked_shape_and_follows_the_generator(tmp_path: Path) -> None:
    make(tmp_path / "clip.mp4", Media(width=96, height=64, num_frames=9))
    archive = Archive([str(tmp_path / "clip.mp4")], Size(48, 32), 5)
    first, again, other = (archive.window(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (5, 32, 48, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_videos_without_a_long_enough_shot_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "clip.mp4", Media(num_frames=4))
    with pytest.raises(UsageError, match="no shot of the manifest's videos has 5 frames; set fewer frames per window"):
        Archive([str(tmp_path / "clip.mp4")], Size(32, 32), 5)
