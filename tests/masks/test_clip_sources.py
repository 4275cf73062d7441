from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Dilation, Job, PointKey, Protect
from vace_batch.masks import clip
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.detectors.onnx_export import export_onnx, new_segmentation_model
from vace_batch.masks.detectors.yolo import import_ultralytics
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.models import MaskModels
from vace_batch.masks.notes import Notes
from vace_batch.masks.segmenters.sam import Segmenter
from vace_batch.masks.store import FrameMask, box_mask
from vace_batch.video.shots import Scan

SIZE = Size(128, 96)
NUM_FRAMES = 4
EXACT = Dilation(px=0.0)


def job(**fields: Any) -> Job:
    defaults: dict[str, Any] = {"dilate": EXACT} | fields
    return Job(job_id="job", video_uri="video", task="removal", **defaults)


def masks_of(made: Job, path: str = "not read", **options: Any) -> dict[int, FrameMask]:
    scan = Scan(num_frames=NUM_FRAMES, pts=(), cuts=())
    fields: dict[str, Any] = {"models": MaskModels(), "frame_range": (0, NUM_FRAMES)} | options
    masks = list(clip_masks(MaskRequest(job=made, path=path, size=SIZE, scan=scan, **fields)))
    assert [mask.index for mask in masks] == sorted({mask.index for mask in masks})
    return {mask.index: mask for mask in masks}


def code_of(made: Job, **options: Any) -> str:
    with pytest.raises(ClipError) as error:
        masks_of(made, **options)
    return error.value.code


def write_video(path: Path, frames_THWC: Iterable[np.ndarray], pix_fmt: str) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, pix_fmt
        for frame in frames_THWC:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="gray" if frame.ndim == 2 else "rgb24"))
            )
        container.mux(stream.encode())
    return str(path)


@pytest.fixture
def mask_file(tmp_path: Path) -> str:
    grays = np.zeros((NUM_FRAMES, SIZE.height, SIZE.width), np.uint8)
    for index in (0, 1, 3):
        grays[index, 40:60, 10 + 10 * index : 30 + 10 * index] = 255
    return write_video(tmp_path / "mask.mkv", grays, "gray")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, SIZE.height, SIZE.width, 3), np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "video.mkv", frames, "bgr0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real architectures with random weights of a fixed seed."""
    import_ultralytics()
    import torch
    from ultralytics.models.sam.build import build_mobile_sam

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    new_segmentation_model([f"class {number}" for number in range(80)], [0.33, 0.125, 256]).save(folder / "tiny-seg.pt")
    export_onnx(str(folder / "tiny-seg.pt"), str(folder / "tiny-seg.onnx"), (96, 128))
    torch.save(build_mobile_sam().state_dict(), folder / "mobile_sam.pt")
    return folder


def test_boxes_need_no_pixels_and_no_file() -> None:
    made = job(boxes=(BoxKey(x=10, y=10, width=20, height=20), BoxKey(x=60, y=10, width=20, height=20, frame=2)))
    assert not made.needs_pixels
    assert {index: mask.box for index, mask in masks_of(made).items()} == {
        0: Box(10, 10, 20, 20), 1: Box(10, 10, 20, 20), 2: Box(10, 10, 70, 20), 3: Box(10, 10, 20, 20),
    }  # fmt: skip


def test_a_mask_file_keeps_its_frames(mask_file: str) -> None:
    boxes = {index: mask.box for index, mask in masks_of(job(mask_uri=mask_file)).items()}
    assert boxes == {index: Box(10 + 10 * index, 40, 20, 20) for index in (0, 1, 3)}


def test_sources_are_joined_and_the_range_is_kept(mask_file: str) -> None:
    made = job(mask_uri=mask_file, boxes=(BoxKey(x=100, y=0, width=10, height=10),))
    masks = masks_of(made, frame_range=(1, 3))
    assert sorted(masks) == [1, 2]
    assert masks[1].box == Box(20, 0, 90, 60) and masks[1].bits.sum() == 20 * 20 + 10 * 10
    assert masks[2].box == Box(100, 0, 10, 10)


def test_refining_follows_the_job() -> None:
    made = job(boxes=(BoxKey(x=40, y=40, width=4, height=20),), dilate=None)
    assert masks_of(made)[0].box == Box(34, 34, 16, 32)
    assert masks_of(job(boxes=made.boxes, dilate=Dilation(percent=50)))[0].box == Box(30, 30, 24, 40)
    assert masks_of(job(boxes=made.boxes), min_px=16)[0].box == Box(34, 40, 16, 20)


def test_parts_of_a_mask_file_are_shaped_apart(tmp_path: Path) -> None:
    gray = np.zeros((SIZE.height, SIZE.width), np.uint8)
    gray[10:30, 10:14] = gray[26:30, 10:30] = gray[60:70, 100:110] = 255
    path = write_video(tmp_path / "mask.mkv", [gray] * NUM_FRAMES, "gray")
    mask = masks_of(job(mask_uri=path, mask_shape="box"))[0]
    assert mask.bits.sum() == 20 * 20 + 10 * 10


def test_what_is_protected_wins_over_dilation(mask_file: str) -> None:
    selected = (BoxKey(x=40, y=40, width=20, height=20),)
    boxed = job(boxes=selected, dilate=None, protect=Protect(boxes=(BoxKey(x=60, y=0, width=68, height=96),)))
    assert masks_of(boxed, min_px=16)[2].box == Box(34, 34, 26, 32)
    by_file = masks_of(job(boxes=selected, protect=Protect(mask_uri=mask_file)))
    assert {index: mask.box for index, mask in by_file.items()} == {
        0: Box(40, 40, 20, 20), 1: Box(40, 40, 20, 20), 2: Box(40, 40, 20, 20),
    }  # fmt: skip
    hidden = job(boxes=selected, protect=Protect(boxes=(BoxKey(x=30, y=30, width=50, height=50, frame=1),)))
    assert sorted(masks_of(hidden)) == [0, 2, 3]


def test_a_mask_file_that_is_too_short_is_found_out_at_the_end(tmp_path: Path) -> None:
    white = np.full((SIZE.height, SIZE.width), 255, np.uint8)
    path = write_video(tmp_path / "mask.mkv", [white] * (NUM_FRAMES - 1), "gray")
    assert code_of(job(mask_uri=path)) == "mask_length_mismatch"
    assert code_of(job(mask_uri=path), frame_range=(0, 2)) == "mask_length_mismatch"


def test_detected_targets_are_masked_and_protected_ones_are_not(video: str, weights: Path) -> None:
    """A random network detects the same objects in both runs."""
    models = MaskModels(detector=str(weights / "tiny-seg.onnx"), confidence=1e-7)
    labels = tuple(ExportedDetector.load(str(weights / "tiny-seg.onnx")).classes.values())
    masks = masks_of(job(targets=labels), video, models=models, frame_range=(1, 3))
    assert masks
    guarded = job(boxes=(BoxKey(x=0, y=0, width=128, height=96),), protect=Protect(targets=labels))
    left = masks_of(guarded, video, models=models, frame_range=(1, 3))
    for index, mask in masks.items():
        rest = left[index].full(SIZE) if index in left else np.zeros((96, 128), bool)
        assert np.array_equal(rest, ~mask.full(SIZE))


def test_an_unknown_class_is_found_before_any_frame_is_read(weights: Path) -> None:
    models = MaskModels(detector=str(weights / "tiny-seg.onnx"))
    assert code_of(job(targets=("class 3", "zebra")), models=models) == "unknown_class"
    assert code_of(
        job(boxes=(BoxKey(x=0, y=0, width=9, height=9),), protect=Protect(targets=("zebra",))), models=models
    )


def test_a_segmenter_without_memory_says_so(video: str, weights: Path) -> None:
    models, notes = MaskModels(segmenter=str(weights / "mobile_sam.pt")), Notes()
    masks_of(job(points=(PointKey(x=90, y=50, frame=3),)), models=models, path=video, notes=notes)
    assert [note.split(":")[0] for note in notes.notes] == ["no_memory"]


def test_without_its_segmenter_a_box_is_the_mask_and_a_note_says_so(video: str, tmp_path: Path) -> None:
    notes = Notes()
    boxed = job(boxes=(BoxKey(x=10, y=20, width=30, height=30),), segmenter="mobile_sam.pt")
    masks = masks_of(boxed, video, models=MaskModels(folders=(str(tmp_path),)), notes=notes)
    assert {mask.box for mask in masks.values()} == {Box(10, 20, 30, 30)} and len(masks) == NUM_FRAMES
    (note,) = notes.notes
    assert note.startswith("no_segmenter")


class Blind(Segmenter):
    """Finds no outline on odd frames."""

    def segment(self, rgb_HWC: Any, prompts: Any, *, index: int = 0) -> list[FrameMask | None]:
        return [None if index % 2 else box_mask(index, prompt.box.pad(-3)) for prompt in prompts]


@pytest.mark.parametrize("fields", [{"boxes": (BoxKey(x=10, y=20, width=40, height=40),)}, {"targets": ("class 1",)}])
def test_where_the_segmenter_finds_no_outline_the_box_is_the_mask_and_the_result_says_so(
    fields: dict[str, Any], video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boxes:
        def check_targets(self, targets: Any) -> list[int]:
            return [1]

        def detect(self, rgb: Any, targets: Any, *, conf: float, index: int) -> list[Detection]:
            return [Detection(box=Box(10, 20, 40, 40), label="class 1", confidence=0.9, mask=None)]

    monkeypatch.setattr(MaskModels, "load_segmenter", lambda *_: Blind(None))
    monkeypatch.setattr(MaskModels, "load_detector", lambda *_: Boxes())
    notes = Notes()
    masks = masks_of(job(**fields, segmenter="sam"), video, notes=notes, models=MaskModels(every=1))
    assert masks[1].box == masks[3].box == Box(10, 20, 40, 40)
    assert [note.partition(": the segm")[0] for note in notes.notes] == ["no_outline: 2 frames (1, 3)"]


def test_boxes_and_points_prompt_the_segmenter(video: str, weights: Path) -> None:
    digest = hashlib.sha256((weights / "mobile_sam.pt").read_bytes()).hexdigest()
    models = MaskModels(folders=(str(weights),), pickles=(digest,))
    made = job(
        boxes=(BoxKey(x=10, y=20, width=40, height=40, object_id=1),),
        points=(PointKey(x=90, y=50, frame=1),),
        segmenter="mobile_sam.pt",
    )
    alone = replace(made, points=())
    reach = Box(0, 10, 60, 60)  # a quarter of the box's longer side around it
    by_box = masks_of(alone, video, models=models, frame_range=(1, 2))[1]
    assert by_box.box.intersect(reach) == by_box.box
    by_both = masks_of(made, video, models=models, frame_range=(1, 2))[1]
    assert np.array_equal(by_both.within(by_box.box) & by_box.bits, by_box.bits)
    assert by_both.box.intersect(reach) != by_both.box


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("no_mask_source", {}),
        ("no_detector", {"targets": ("car",)}),
        ("no_segmenter", {"points": (PointKey(x=1, y=1),)}),
        ("weights_not_allowed", {"targets": ("car",), "detector": "/etc/passwd"}),
        ("point_outside_frame", {"points": (PointKey(x=128, y=1),)}),
        ("point_outside_range", {"points": (PointKey(x=1, y=1, frame=4),)}),
        ("no_positive_point", {"points": (PointKey(x=1, y=1, positive=False), PointKey(x=1, y=1, frame=1))}),
        ("unknown_mask_shape", {"boxes": (BoxKey(x=1, y=1, width=9, height=9),), "mask_shape": "star"}),
        ("box_outside_frame", {"boxes": (BoxKey(x=200, y=1, width=9, height=9),)}),
        ("mask_not_found", {"mask_uri": "/nowhere/mask.mkv"}),
    ],
)
def test_what_cannot_be_done_is_a_clips_error(code: str, fields: dict[str, Any]) -> None:
    assert code_of(job(**fields)) == code


def test_a_static_object_is_refined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = clip.refine

    def counted(*args: Any, **options: Any) -> FrameMask | None:
        calls.append(1)
        return original(*args, **options)

    monkeypatch.setattr(clip, "refine", counted)
    assert len(masks_of(job(boxes=(BoxKey(x=40, y=40, width=20, height=20),)))) == NUM_FRAMES
    assert len(calls) == 1
