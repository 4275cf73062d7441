"""Test that builder, inbox and outputs share a list of video suffixes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vace_batch.batch.identity import works_of
from vace_batch.manifest.job import Job
from vace_batch.manifest.video_suffixes import VIDEO_SUFFIXES, is_unicode, is_video, suffix_by_content
from vace_batch.options import Options


def output_of(video: Path) -> str:
    [work] = works_of([Job(job_id="film", video_uri=str(video), task="t2v")], "", Options(), str(video.parent))
    return work.output


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_a_video_keeps_its_suffix(suffix: str, tmp_path: Path) -> None:
    video = tmp_path / f"source{suffix.upper()}"
    video.write_bytes(b"x")
    assert is_video(video.name) and output_of(video) == f"videos/film{suffix}"


@pytest.mark.parametrize(("container", "suffix"), [("mpeg", ".mpg"), ("mpegts", ".ts"), ("avi", ".avi")])
def test_a_file_without_a_suffix_is_told_by_its_first_bytes(container: str, suffix: str, tmp_path: Path) -> None:
    video = tmp_path / "source"
    with av.open(str(video), "w", format=container) as file:
        stream = file.add_stream("mpeg2video" if container != "avi" else "mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode())
    assert output_of(video) == f"videos/film{suffix}"


def test_other_bytes_and_no_file_are_mp4(tmp_path: Path) -> None:
    assert suffix_by_content(b"\0\0\0\x18ftypmp42") == suffix_by_content(b"") == ".mp4"
    assert output_of(tmp_path / "absent") == "videos/film.mp4"


def test_hidden_files_and_names_that_are_no_unicode_are_no_rows() -> None:
    assert not any(map(is_video, (".a.mp4", ".trash/a.mp4", "a.txt", "mp4")))
    assert is_unicode("é.mp4") and not is_unicode("\udcff.mp4")
