"""Static overlays: the detector itself, and its masks of a clip."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.mask_requests import masks_of, panned, removal, request_of, write
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Protect
from vace_batch.masks.detectors import overlay
from vace_batch.masks.detectors.overlay import find_overlay
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames

SIZE = Size(256, 144)


def test_an_overlay_that_stands_still_is_found(tmp_path: Path) -> None:
    frames = list(panned(SIZE, 24))
    logo = Box(200, 12, 40, 22)
    for frame in frames:
        cv2.rectangle(frame, (logo.x, logo.y), (logo.right - 1, logo.bottom - 1), (240, 240, 240), 3)
        cv2.circle(frame, (220, 23), 6, (20, 20, 20), -1)
    masks = masks_of(request_of(removal(targets=("@overlay",)), write(tmp_path / "logo.mp4", frames), SIZE, 24))
    assert sorted(masks) == list(range(24))
    assert masks[5].within(logo).all() and logo.pad(6).intersect(masks[5].box) == masks[5].box
    guarded = removal(boxes=(BoxKey(x=180, y=0, width=76, height=60),), protect=Protect(targets=("@overlay",)))
    assert not masks_of(request_of(guarded, tmp_path / "logo.mp4", SIZE, 24))[5].within(logo).any()


def test_where_nothing_moves_an_overlay_cannot_be_told(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (18, 32, 3), np.uint8)
    still = write(tmp_path / "still.mp4", [np.kron(blocks, np.ones((8, 8, 1), np.uint8))] * 12)
    job = removal(targets=("@overlay",))
    with pytest.raises(ClipError) as error:
        masks_of(request_of(job, still, SIZE, 12))
    assert error.value.code == "nothing_moves"
    moves = write(tmp_path / "moves.mp4", panned(SIZE, 12))
    assert masks_of(request_of(job, moves, SIZE, 12)) == {}


def with_logo(num_frames: int, logo: Box) -> list[np.ndarray]:
    frames = list(panned(SIZE, num_frames))
    for frame in frames:
        cv2.rectangle(frame, (logo.x, logo.y), (logo.right - 1, logo.bottom - 1), (240, 240, 240), 3)
    return frames


def test_the_area_inside_an_outline_belongs_to_the_overlay(tmp_path: Path) -> None:
    """The logo is a frame of lines; the moving picture inside it is masked too."""
    logo = Box(30, 90, 60, 40)
    path = write(tmp_path / "logo.mp4", with_logo(20, logo))
    mask = find_overlay(read_frames(str(path)), 20, SIZE)
    assert mask is not None and mask.within(logo).all() and logo.pad(6).intersect(mask.box) == mask.box


def test_of_a_long_clip_some_frames_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_MOST_FRAMES", 8)
    logo = Box(200, 12, 40, 22)
    path = str(write(tmp_path / "logo.mp4", with_logo(40, logo)))
    taken = []
    plain = Frame.small

    def small(self: Frame, size: Size) -> np.ndarray:
        taken.append(self.index)
        return plain(self, size)

    monkeypatch.setattr(Frame, "small", small)
    mask = find_overlay(read_frames(path), 40, SIZE)
    assert taken == list(range(0, 40, 5))
    assert mask is not None and mask.within(logo).all()


def test_a_few_frames_are_too_few(tmp_path: Path) -> None:
    path = write(tmp_path / "short.mp4", panned(SIZE, 7))
    with pytest.raises(ClipError, match="at least 8 frames, got 7") as error:
        find_overlay(read_frames(str(path)), 7, SIZE)
    assert error.value.code == "nothing_moves"
