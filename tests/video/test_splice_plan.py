"""Plans of splices: the groups of pictures to copy, from packets alone, or the reason against copying."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.video.encoders import EncoderSettings, choose_encoding
from vace_batch.video.probe import probe
from vace_batch.video.shots import scan
from vace_batch.video.splice_plan import SplicePlan, _clean_starts, as_predicate, plan_splice
from vace_batch.video.writer import rewrite

FRAMES = 30


def h264(**options: str) -> Media:
    options = {"preset": "medium", "x264-params": "scenecut=0"} | options
    return Media(num_frames=FRAMES, sounds=(Sound(),), options=options)


def planned(path: str, edited: list[tuple[int, int]]) -> SplicePlan | str:
    info = probe(path)
    return plan_splice(info, info.container, choose_encoding(info, EncoderSettings()), edited)


def test_one_group_needs_no_words(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", h264(g="99"))
    report = rewrite(source, str(tmp_path / "out.mp4"), lambda _: None, None, [(20, 21)])
    assert (report.copied_frames, report.notes) == (0, ())


def test_what_cannot_be_joined_is_said(tmp_path: Path) -> None:
    for name, media, words in (
        ("a.ts", Media(num_frames=FRAMES, options={"g": "8"}), "mpegts files cannot be joined"),
        ("a.avi", Media(num_frames=FRAMES, codec="mpeg4", options={"b": "2M"}), "groups of mpeg4"),
        ("early.mp4", replace(h264(g="8"), pts=range(-4, FRAMES - 4), time_base=Fraction(1, 25)), "edit list"),
    ):
        source = make(tmp_path / name, media)
        report = rewrite(source, str(tmp_path / ("out_" + name)), lambda _: None, None, [(20, 21)])
        assert report.copied_frames == 0 and words in report.notes[-1]
        assert scan(source).pts == scan(str(tmp_path / ("out_" + name))).pts


def test_ranges_and_functions_say_which_frames_are_edited() -> None:
    is_edited = as_predicate([(2, 4), (7, 7), (9, 10)])
    assert [index for index in range(12) if is_edited(index)] == [2, 3, 9]
    assert as_predicate(is_edited) is is_edited


@pytest.mark.parametrize(
    ("edited", "runs"),
    [
        ([(9, 10)], [(0, 8, False), (8, 16, True), (16, 30, False)]),
        ([(0, 1)], [(0, 8, True), (8, 30, False)]),
        ([(7, 9), (29, 30)], [(0, 16, True), (16, 24, False), (24, 30, True)]),
        ([], [(0, 30, False)]),
    ],
)
def test_groups_with_edits_are_encoded_and_neighbours_are_joined(
    tmp_path: Path, edited: list[tuple[int, int]], runs: list[tuple[int, int, bool]]
) -> None:
    path = make(tmp_path / "a.mp4", h264(g="8"))
    plan = planned(path, edited)
    assert isinstance(plan, SplicePlan)
    assert [(run.start, run.stop, run.edited) for run in plan.runs] == runs
    assert plan.copied_frames == sum(stop - start for start, stop, is_edited in runs if not is_edited)
    assert tuple(plan.pts.tolist()) == scan(path).pts and (np.diff(plan.dts) > 0).all()
    assert all(run.entry == run.first == run.start for run in plan.runs if run.edited)


def test_a_file_that_does_not_begin_with_a_key_frame_is_encoded_again(tmp_path: Path) -> None:
    path = str(tmp_path / "cut.mkv")
    with av.open(make(tmp_path / "a.mkv", h264(g="8", bf="0"))) as source, av.open(path, "w") as sink:
        copy = sink.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][3:]:
            packet.stream = copy
            sink.mux(packet)
    assert planned(path, [(9, 10)]) == "it does not begin with a key frame that can stand alone"


def test_a_track_without_any_key_frame_has_no_clean_start() -> None:
    """A damaged recording may begin in the middle of its only group."""
    assert _clean_starts(np.arange(4, dtype=np.int64), ()) == ()
