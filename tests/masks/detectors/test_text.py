"""Burned-in text: the detector itself, and its masks of a clip."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.support.mask_requests import masks_of, panned, removal, request_of, write
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Protect
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.detectors.text import TEXT, TextFinder

SIZE = Size(256, 144)


@pytest.fixture(scope="module")
def titled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = list(panned(SIZE, 8))
    for frame in frames[2:6]:
        cv2.putText(frame, "We should go.", (40, 120), cv2.FONT_HERSHEY_DUPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    return write(tmp_path_factory.mktemp("video") / "titled.mp4", frames)


def test_burned_in_text_is_found_on_its_frames(titled: Path) -> None:
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    masks = masks_of(request_of(removal(targets=("@text",)), titled, SIZE, 8))
    drawn = np.zeros((SIZE.height, SIZE.width), np.uint8)
    cv2.putText(drawn, "We should go.", (40, 120), cv2.FONT_HERSHEY_DUPLEX, 0.7, 255, 2)
    letters = drawn > 0
    for index in range(2, 6):
        assert masks[index].full(SIZE)[letters].mean() > 0.98 and masks[index].box.height < 60
    guarded = removal(boxes=(BoxKey(x=0, y=90, width=256, height=54),), protect=Protect(targets=("@text",)))
    kept = masks_of(request_of(guarded, titled, SIZE, 8))
    assert kept[4].full(SIZE)[letters].mean() < 0.02 and kept[4].box == Box(0, 90, 256, 54)


@pytest.mark.parametrize(("score", "found"), [(0.55, False), (0.88, True)])
def test_a_tall_line_of_text_must_be_a_sure_one(score: float, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of a round animal was taken for a letter of half the picture's height."""
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    from rapidocr import RapidOCR

    corners = np.array([[50, 10], [200, 10], [200, 80], [50, 80]], np.float32)
    answer = SimpleNamespace(boxes=[corners, corners / 5], scores=[score, 0.55])
    monkeypatch.setattr(RapidOCR, "__call__", lambda *_, **__: answer)
    lines = TextFinder().find(np.zeros((SIZE.height, SIZE.width, 3), np.uint8), SIZE, 0)
    assert [line.box.width > 100 for line in lines] == [True, False][not found :]


class Reader:
    """Answers as RapidOCR's detector does, without looking."""

    def __init__(self, boxes: list[np.ndarray] | None, scores: list[float]) -> None:
        self.boxes, self.scores = boxes, scores

    def __call__(self, bgr: np.ndarray, **_: bool) -> Reader:
        assert bgr.flags.c_contiguous
        return self


def lines_of(boxes: list[np.ndarray] | None, scores: list[float]) -> list[Detection]:
    """The lines found in a frame that is shown at half its size."""
    finder = TextFinder.__new__(TextFinder)
    finder._reader = Reader(boxes, scores)
    return finder.find(np.zeros((SIZE.height // 2, SIZE.width // 2, 3), np.uint8), SIZE, 7)


def test_a_line_is_a_mask_at_the_display_s_size_with_a_margin() -> None:
    corners = np.array([[20, 30], [80, 30], [80, 40], [20, 40]], np.float32)
    (line,) = lines_of([corners], [0.8])
    assert line.label == TEXT and line.confidence == pytest.approx(0.8)
    assert line.mask is not None and line.mask.index == 7 and line.box == line.mask.box
    room = line.box.intersect(Box(40, 60, 120, 20))
    assert room == Box(40, 60, 120, 20), "the line itself is in it"
    assert Box(36, 56, 129, 29).intersect(line.box) == line.box, "and little more"


def test_a_slanted_line_is_not_masked_as_its_bounding_box() -> None:
    corners = np.array([[10, 10], [90, 40], [87, 48], [7, 18]], np.float32)
    (line,) = lines_of([corners], [0.9])
    assert line.mask is not None and line.mask.bits.mean() < 0.5


def test_no_text_and_text_outside_the_frame_are_no_lines() -> None:
    assert lines_of(None, []) == []
    outside = np.array([[200, 100], [240, 100], [240, 110], [200, 110]], np.float32)
    assert lines_of([outside], [0.9]) == []
