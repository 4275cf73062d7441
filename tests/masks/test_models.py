"""Which weights make a job's masks, and when their class names are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels, check_names
from vace_batch.masks.weights import DEMO_DETECTOR
from vace_batch.options import Options
from vace_batch.report.mask_review import review
from vace_batch.steps.prepare import prepare


def test_class_names_are_looked_up_before_the_video_is_opened(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mkv", Media(num_frames=4, codec="ffv1"))
    for name, code in (("zebra", "unknown_class"), ("ball", "not_found")):
        job = Job(job_id=name, video_uri=path, task="removal", targets=(name,))
        work = works_of([job], str(tmp_path / "out"), Options(detector=DEMO_DETECTOR), str(tmp_path))[0]
        Path(path).rename(tmp_path / "gone.mkv")
        with pytest.raises(ClipError) as error:
            prepare(work, MaskModels(detector=DEMO_DETECTOR))
        assert error.value.code == code
        reviewed = review(work, MaskModels(detector=DEMO_DETECTOR), str(tmp_path), "png")
        assert reviewed.error is not None and reviewed.error.startswith(code)
        (tmp_path / "gone.mkv").rename(path)


def test_a_job_without_a_detector_or_a_segmenter_says_which_setting_is_missing() -> None:
    for load, column in ((MaskModels().load_detector, "detector"), (MaskModels().load_segmenter, "segmenter")):
        with pytest.raises(ClipError, match=f"give --{column} FILE, or name them in the column {column}") as error:
            load(None)
        assert error.value.code == f"no_{column}"


def test_only_needed_weights_decide_a_job_s_masks() -> None:
    models = MaskModels(detector=DEMO_DETECTOR, segmenter="nowhere.pt")
    boxes = (BoxKey(x=1, y=1, width=9, height=9),)
    plain = Job(job_id="a", video_uri="-", task="removal", boxes=boxes)
    assert models.weights_of(plain) == {"detector": None, "segmenter": None}
    targets = Job(job_id="a", video_uri="-", task="removal", targets=("ball",), segmenter="nowhere.pt")
    paths = models.weights_of(targets)
    assert paths["detector"] is not None and Path(paths["detector"]).name == "objects.onnx"
    assert paths["segmenter"] is None, "weights that are not there fail the row later"


def test_text_and_overlays_need_no_detector_and_boxes_no_pixels() -> None:
    for targets in (("@text",), ("@overlay",), ()):
        check_names(Job(job_id="a", video_uri="-", task="removal", targets=targets), MaskModels())
    with pytest.raises(ClipError) as error:
        check_names(Job(job_id="a", video_uri="-", task="removal", targets=("ball",)), MaskModels())
    assert error.value.code == "no_detector"
