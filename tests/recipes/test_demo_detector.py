"""Test the demo's detector through the whole mask stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vace_batch.demo.clips import NUM_FRAMES, SIZE, Shown, ball_over_the_mountains, detector_path, horse_on_the_pavement
from vace_batch.geometry import TOKEN_PX, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.detectors import backends
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.models import MaskModels
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Least share of an object that its mask covers in a frame; largest and mean surplus, in areas of the object."""

    covered: float
    mean_surplus: float
    largest_surplus: float


# Measured on the horse: share covered, mean surplus, largest surplus.
#   float32: ONNX Runtime, OpenVINO with AVX2, OpenVINO with AVX-512        0.9483  2.1337  3.5839  (all three equal)
#   bfloat16: OpenVINO with avx512_bf16                                     0.9418  1.5291  2.8846
#   bfloat16: OpenVINO with ONEDNN_MAX_CPU_ISA=AVX512_CORE, which emulates  0.9357  1.4292  2.9133
# float32's class scores differ by 5e-7 between the runtimes, bfloat16's by 8e-3 from them. The detector sees the horse
# weakly, often two anchors score alike, and tracking turns such a difference into another outline. Noise of 1e-4 on the
# network's input leaves float32's numbers as they are (2.1337..2.1400); noise of 1e-3 gives 1.38..1.51.
# On the ball: 1.0, 0.4946, 0.5605 in float32; 1.0, 0.4919, 0.5650 in bfloat16.
LIMITS = {
    ("ball", "float32"): Limits(covered=0.99, mean_surplus=0.55, largest_surplus=0.6),
    ("ball", "bfloat16"): Limits(covered=0.99, mean_surplus=0.55, largest_surplus=0.6),
    ("horse", "float32"): Limits(covered=0.94, mean_surplus=2.2, largest_surplus=3.65),
    ("horse", "bfloat16"): Limits(covered=0.9, mean_surplus=1.7, largest_surplus=3.0),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("scene", "label"), [(ball_over_the_mountains, "ball"), (horse_on_the_pavement, "horse")])
def test_it_finds_the_demo_s_objects_on_every_frame(
    scene: Callable[[], Iterator[Shown]],
    label: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if precision == "float32":
        monkeypatch.setattr(backends, "has_bfloat16", lambda: False)
    elif backends.backend() != "openvino":
        pytest.skip("bfloat16 needs a CPU that has it, and openvino")
    shown = list(scene())
    path = str(tmp_path / "clip.mp4")
    write_clip(path, (frame.picture_HW3 for frame in shown), rate=Fraction(25))
    job = Job(job_id="job", video_uri="video", task="removal", targets=(label,))
    # a copy of its own: loaded detectors stay in the process, by path
    models = MaskModels(detector=shutil.copy(detector_path(), tmp_path))
    request = MaskRequest(
        job=job,
        path=path,
        size=SIZE,
        scan=Scan(num_frames=NUM_FRAMES, pts=(), cuts=()),
        frame_range=(0, NUM_FRAMES),
        models=models,
        min_px=TOKEN_PX,
    )
    masks = {mask.index: mask for mask in clip_masks(request)}
    covered, surplus = [], []
    for index, frame in enumerate(shown):
        true = frame.object_HW > 0
        made = masks[index].full(SIZE) if index in masks else np.zeros_like(true)
        covered.append((made & true).sum() / true.sum())
        surplus.append((made & ~true).sum() / true.sum())

    limits = LIMITS[label, precision]
    # gaps are covered from both sides: the horse is missed often
    assert min(covered) >= limits.covered
    assert np.mean(surplus) < limits.mean_surplus and max(surplus) < limits.largest_surplus


def test_scores_in_float32_are_equal_to_rounding_in_both_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr(backends, "has_bfloat16", lambda: False)
    picture = np.random.default_rng(0).random((1, 3, 224, 384), np.float32)
    outputs = []
    for backend in ("onnxruntime", "openvino"):
        monkeypatch.setattr(backends, "backend", lambda backend=backend: backend)
        network = ExportedDetector.load(str(detector_path())).session(Size(384, 224))
        outputs.append([np.array(output) for output in network(picture)])
    (ours, *_), (others, *_) = outputs
    num_classes = 3
    assert np.abs(ours[0, 4 : 4 + num_classes] - others[0, 4 : 4 + num_classes]).max() < 1e-5


def test_both_backends_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    picture = next(horse_on_the_pavement()).picture_HW3
    found = []
    for backend in ("onnxruntime", "openvino"):
        monkeypatch.setattr(backends, "backend", lambda backend=backend: backend)
        found.append(ExportedDetector.load(str(detector_path())).detect(picture, ["horse"], conf=0.3))
    (one,), (other,) = found
    assert one.mask is not None and other.mask is not None
    a, b = one.mask.full(SIZE), other.mask.full(SIZE)
    assert (a & b).sum() / (a | b).sum() >= 0.99
