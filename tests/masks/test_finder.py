from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Dilation, Job, Pick, Protect
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.detectors.text import TextFinder
from vace_batch.masks.finder import Notes, picked
from vace_batch.masks.models import MaskModels
from vace_batch.masks.store import FrameMask, PackedMask, box_mask
from vace_batch.masks.tracking.objects import Sighting, TrackedObject
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip

SIZE = Size(256, 144)


def job(**fields: Any) -> Job:
    return Job(job_id="job", video_uri="video", task="removal", **{"dilate": Dilation(px=0.0), **fields})


def masks_of(made: Job, path: Path, num_frames: int, **options: Any) -> dict[int, FrameMask]:
    scan = Scan(num_frames=num_frames, pts=(), cuts=())
    fields: dict[str, Any] = {"models": MaskModels(), "frame_range": (0, num_frames)} | options
    request = MaskRequest(job=made, path=str(path), size=SIZE, scan=scan, **fields)
    return {mask.index: mask for mask in clip_masks(request)}


def panned(num_frames: int) -> Iterator[np.ndarray]:
    """A landscape of coarse noise that moves to the left."""
    coarse = np.random.default_rng(0).integers(60, 200, (18, 64, 3), np.uint8)
    wide = cv2.resize(coarse, (SIZE.width * 2, SIZE.height), interpolation=cv2.INTER_CUBIC)
    for index in range(num_frames):
        yield wide[:, 5 * index : 5 * index + SIZE.width].copy()


def write(path: Path, frames: list[np.ndarray]) -> Path:
    write_clip(str(path), frames, rate=Fraction(25))
    return path


@pytest.fixture(scope="module")
def titled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = list(panned(8))
    for frame in frames[2:6]:
        cv2.putText(frame, "We should go.", (40, 120), cv2.FONT_HERSHEY_DUPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    return write(tmp_path_factory.mktemp("video") / "titled.mp4", frames)


def test_burned_in_text_is_found_on_its_frames(titled: Path) -> None:
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    masks = masks_of(job(targets=("@text",)), titled, 8)
    drawn = np.zeros((SIZE.height, SIZE.width), np.uint8)
    cv2.putText(drawn, "We should go.", (40, 120), cv2.FONT_HERSHEY_DUPLEX, 0.7, 255, 2)
    letters = drawn > 0
    for index in range(2, 6):
        assert masks[index].full(SIZE)[letters].mean() > 0.98 and masks[index].box.height < 60
    kept = masks_of(
        job(boxes=(BoxKey(x=0, y=90, width=256, height=54),), protect=Protect(targets=("@text",))), titled, 8
    )
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


def test_an_overlay_that_stands_still_is_found(tmp_path: Path) -> None:
    frames = list(panned(24))
    logo = Box(200, 12, 40, 22)
    for frame in frames:
        cv2.rectangle(frame, (logo.x, logo.y), (logo.right - 1, logo.bottom - 1), (240, 240, 240), 3)
        cv2.circle(frame, (220, 23), 6, (20, 20, 20), -1)
    masks = masks_of(job(targets=("@overlay",)), write(tmp_path / "logo.mp4", frames), 24)
    assert sorted(masks) == list(range(24))
    assert masks[5].within(logo).all() and logo.pad(6).intersect(masks[5].box) == masks[5].box
    guarded = job(boxes=(BoxKey(x=180, y=0, width=76, height=60),), protect=Protect(targets=("@overlay",)))
    assert not masks_of(guarded, tmp_path / "logo.mp4", 24)[5].within(logo).any()


def test_where_nothing_moves_an_overlay_cannot_be_told(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (18, 32, 3), np.uint8)
    still = write(tmp_path / "still.mp4", [np.kron(blocks, np.ones((8, 8, 1), np.uint8))] * 12)
    with pytest.raises(ClipError) as error:
        masks_of(job(targets=("@overlay",)), still, 12)
    assert error.value.code == "nothing_moves"
    assert masks_of(job(targets=("@overlay",)), write(tmp_path / "moves.mp4", list(panned(12))), 12) == {}


def test_without_its_segmenter_a_box_is_the_mask_and_a_note_says_so(titled: Path, tmp_path: Path) -> None:
    notes = Notes()
    boxed = job(boxes=(BoxKey(x=10, y=20, width=30, height=30),), segmenter="mobile_sam.pt")
    masks = masks_of(boxed, titled, 8, models=MaskModels(folders=(str(tmp_path),)), notes=notes)
    assert {mask.box for mask in masks.values()} == {Box(10, 20, 30, 30)} and len(masks) == 8
    (note,) = notes.notes
    assert note.startswith("no_segmenter")


def tracked(number: int, label: str, side: int) -> TrackedObject:
    box = Box(0, 0, side, side)
    one = Sighting(index=0, label=label, confidence=0.9, box=box, mask=PackedMask.of(box_mask(0, box)))
    return TrackedObject(id=number, label=label, sightings=(one,))


@pytest.mark.parametrize(
    ("pick", "ids"),
    [
        (Pick(), [1, 2, 3, 2]),
        (Pick(largest=True), [2, 2]),
        (Pick(tracks=(3, 9)), [3]),
        (Pick(exclude=("DOG",)), [1, 3]),
        (Pick(exclude=("dog",), largest=True), [3]),
    ],
)
def test_only_what_is_meant_is_picked(pick: Pick, ids: list[int]) -> None:
    objects = [tracked(1, "cat", 10), tracked(2, "dog", 20), tracked(3, "cat", 25), tracked(2, "dog", 20)]
    assert [one.id for one in picked(job(pick=pick), objects)] == ids
