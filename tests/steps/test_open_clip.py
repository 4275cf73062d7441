"""Test opening a clip for planning: its range of frames, its files, and faults found before the video is read."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Expand, Extend, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps import open_clip as module
from vace_batch.steps.open_clip import frame_range_of, open_clip
from vace_batch.video.shots import Scan

SCAN = Scan(num_frames=5, pts=(10, 11, 12, 14, 15), cuts=())
TIME_BASE = Fraction(1, 10)


def timed(start_s: float | None, end_s: float | None) -> Job:
    return Job(job_id="a", video_uri="v.mp4", task="removal", start_s=start_s, end_s=end_s)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [(None, None, (0, 5)), (0.1, None, (1, 5)), (None, 0.2, (0, 2)), (0.21, 0.41, (3, 4)), (0.4, 9.0, (3, 5))],
)
def test_times_count_from_the_first_frame(start_s: float, end_s: float, expected: tuple[int, int]) -> None:
    assert frame_range_of(timed(start_s, end_s), SCAN.pts, TIME_BASE) == expected


def test_a_range_without_a_frame_is_refused_with_the_last_time() -> None:
    with pytest.raises(
        ClipError, match="start_s 0.21 s to end_s 0.3 s holds no frame; the last frame is shown at 0.500 s"
    ):
        frame_range_of(timed(0.21, 0.3), SCAN.pts, TIME_BASE)


def test_an_open_clip_counts_frames_and_shots_on_its_canvas(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Media(width=64, height=48, num_frames=24, cut_at=12))
    extend = Extend(mode="last", seconds=0.2)
    job = Job(job_id="a", video_uri=path, task="composition", compose="expand", expand=Expand(left=0.25), extend=extend)
    [work] = works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))
    with open_clip(work, MaskModels(), tmp_path) as clip:
        assert (clip.size, clip.canvas.size, clip.canvas.source) == (Size(64, 48), Size(80, 48), Box(16, 0, 64, 48))
        assert (clip.scan.num_frames, clip.num_frames, clip.new) == (24, 29, range(5))
        assert [(shot.start, shot.stop) for shot in clip.shots] == [(0, 17), (17, 29)]
        assert clip.frame_range == (0, 24) and clip.source_bytes == Path(path).stat().st_size
        assert Path(clip.path).samefile(path) and clip.file("holes") == str(tmp_path / "holes.parquet")


def test_a_refused_job_and_an_output_that_cannot_be_are_told_before_the_video_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "clip.mkv", Media(num_frames=4, codec="ffv1", pix_fmt="gray"))

    def read(*_: object) -> None:
        raise AssertionError("the video is read")

    monkeypatch.setattr(module, "scan", read)
    job = Job(job_id="a", video_uri=path, task="removal", boxes=(BoxKey(x=0, y=0, width=9, height=9),))
    for options, output, code in (
        (Options(), "a.webm", "unsupported_pixel_format"),
        (Options.model_validate({"media": {"max_bytes": 10}}), "a.mkv", "too_large"),
    ):
        [work] = works_of([replace(job, output_uri=output)], str(tmp_path / "out"), options, str(tmp_path))
        with pytest.raises(ClipError) as error, open_clip(work, MaskModels(), tmp_path):
            pass
        assert error.value.code == code
