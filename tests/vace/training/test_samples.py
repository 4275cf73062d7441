"""Training samples: windows of every task made from clean frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vace_batch.geometry import Size
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.pictures import Pictures, draw
from vace_batch.vace.training.samples import TASKS, sample_of


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("photos")
    picture = draw(120, 160, np.random.default_rng(0))
    cv2.imwrite(str(folder / "one.png"), ((picture + 1) * 127.5).astype(np.uint8))
    return Clips(Pictures(folder))


def test_samples_of_every_task_are_windows(clips: Clips) -> None:
    generator = np.random.default_rng(0)
    frames = np.asarray((clips.clip(48, 64, 5, generator) + 1) * 127.5 + 0.5, np.uint8)
    for task in TASKS:
        sample = sample_of(task, frames, generator)
        assert sample.vcu.size == Size(64, 48)
        assert sample.vcu.num_frames == len(sample.target_THWC) == 5
        known = ~sample.vcu.neutral_THW & ~sample.vcu.mask_THW
        np.testing.assert_array_equal(sample.target_THWC[known], sample.vcu.frames_THWC[known])
    removal = sample_of("removal", frames, generator).vcu
    assert removal.reactive_is_neutral and removal.mask_THW[0].any()
