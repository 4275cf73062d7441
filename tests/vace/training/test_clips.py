"""Training clips: a picture under a still or moving camera, with objects that pass."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.pictures import Pictures, draw


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("photos")
    picture = draw(160, 200, np.random.default_rng(0))
    cv2.imwrite(str(folder / "one.png"), ((picture + 1) * 127.5).astype(np.uint8))
    return Clips(Pictures(folder))


def test_some_clips_stand_still_and_some_move(clips: Clips) -> None:
    made = [clips.clip(32, 48, 5, np.random.default_rng(seed)) for seed in range(16)]
    assert {clip.shape for clip in made} == {(5, 32, 48, 3)} and {clip.dtype for clip in made} == {np.dtype("float32")}
    still = [bool((clip == clip[:1]).all()) for clip in made]
    assert 0 < sum(still) < len(still)


def test_a_clip_follows_its_generator(clips: Clips) -> None:
    first, again = (clips.clip(32, 48, 5, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
