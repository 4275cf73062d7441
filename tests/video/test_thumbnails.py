"""Thumbnails: square pixels, any order, and a second way where decord does not read the file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.support.media_files import Media, make
from vace_batch.errors import ClipError
from vace_batch.video import thumbnails
from vace_batch.video.thumbnails import sample_frames

YCGCO = (8, 1, 1, 1)
"""Tags of a file that swscale does not convert, and that x264 writes."""


def test_thumbnails_have_square_pixels(tmp_path: Path) -> None:
    upright = make(tmp_path / "a.mp4", Media(sample_aspect_ratio=Fraction(2)))
    turned = make(tmp_path / "b.mp4", Media(sample_aspect_ratio=Fraction(2), rotation=90))
    assert sample_frames(upright, [0], 64)[0].shape == (24, 64, 3)
    assert sample_frames(turned, [0], 24)[0].shape == (64, 24, 3)
    assert sample_frames(upright, [], 64) == []
    for index in (-1, 12):
        with pytest.raises(ValueError, match="index|indices|no frame"):
            sample_frames(upright, [index], 64)


def test_unknown_colour_tags_are_refused_where_decord_does_not_read_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error reading a.mp4...")

    monkeypatch.setattr(thumbnails.decord, "VideoReader", broken)
    assert sample_frames(make(tmp_path / "whole.mp4", Media()), [3], 32)[0].shape == (24, 32, 3)
    with pytest.raises(ClipError, match="colour matrix 8"):
        sample_frames(make(tmp_path / "a.mp4", Media(tags=YCGCO)), [0], 32)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_come_in_the_order_asked_and_twice_if_asked_twice(tmp_path: Path, suffix: str) -> None:
    """decord reads the MP4; the AVI goes through the exact reader."""
    path = make(tmp_path / f"a{suffix}", Media(num_frames=20, cut_at=10))
    early, late, again = sample_frames(path, [2, 15, 2], 32)
    np.testing.assert_array_equal(early, again)
    assert np.abs(early.astype(int) - late).mean() > 40
