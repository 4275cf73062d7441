"""Output that is larger or longer than its source: pictures where they belong, everything else beside them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.geometry import Box, Size
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.encoders import EncoderSettings
from vace_batch.video.frame import Frame
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import rewrite

SETTINGS = EncoderSettings(crf=10)
WHOLE = Box(0, 0, 64, 48)


def grown(tmp_path: Path, media: Media, canvas: Canvas, name: str = "clip.mp4") -> tuple[str, str, list[int]]:
    source, target = make(tmp_path / name, media), str(tmp_path / f"out_{name}")
    seen: list[int] = []

    def edit(frame: Frame) -> None:
        assert frame.size == canvas.size
        seen.append(frame.index)
        if not canvas.before <= frame.index < canvas.before + media.num_frames:
            box = Box(0, 0, *(canvas.size.width, canvas.size.height))
            blue = np.full((box.height, box.width, 3), (0, 0, 255), np.uint8)
            frame.paste(box, blue, np.ones((box.height, box.width), np.float32))

    report = rewrite(source, target, edit, SETTINGS, None, canvas)
    assert report.num_frames == len(seen) == media.num_frames + canvas.before + canvas.after
    return source, target, seen


def pictures(path: str) -> list[np.ndarray]:
    return [frame.rgb() for frame in read_frames(path)]


@pytest.mark.parametrize(
    ("pix_fmt", "rotation", "width"),
    [("yuv420p", 0, 64), ("yuv420p", 0, 63), ("yuv420p", 90, 64), ("yuv420p10le", 0, 64)],
)
def test_the_source_lies_where_the_canvas_says(tmp_path: Path, pix_fmt: str, rotation: int, width: int) -> None:
    media = Media(width=width, pix_fmt=pix_fmt, rotation=rotation, num_frames=4)
    if width % 2:
        media = Media(width=width, pix_fmt="yuv444p", num_frames=4)
    size = Size(48, 64) if rotation else Size(width, 48)
    place = Box(16, 16, size.width, size.height)
    canvas = Canvas(size=Size(size.width + 48, size.height + 16), source=place, kept=place)
    source, target, seen = grown(tmp_path, media, canvas)
    assert seen == [0, 1, 2, 3] and probe(target).size == canvas.size
    assert probe(target).rotation == probe(source).rotation and probe(target).pix_fmt == probe(source).pix_fmt
    for before, after in zip(pictures(source), pictures(target), strict=True):
        assert np.abs(after[canvas.source.slices].astype(int) - before).mean() < 2.5
        assert np.abs(after[40, :16].astype(int) - before[24, 0]).mean() < 8


@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, 0)])
def test_added_frames_have_times_of_their_own_and_sound_stays_with_its_pictures(
    tmp_path: Path, before: int, after: int
) -> None:
    media = Media(num_frames=12, rate=Fraction(24), sounds=(Sound(seconds=0.5),), chapters=("one", "two"))
    canvas = Canvas(size=Size(64, 48), source=WHOLE, kept=WHOLE, before=before, after=after)
    source, target, seen = grown(tmp_path, media, canvas)
    assert seen == list(range(17))
    old, new = pictures(source), pictures(target)
    for index in range(12):
        assert np.abs(new[index + before].astype(int) - old[index]).mean() < 2.5
    for index in (*range(before), *range(12 + before, 17)):
        assert np.abs(new[index].astype(int) - (0, 0, 255)).mean() < 10
    with av.open(target) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        times = sorted(float(p.pts * p.time_base) for p in container.demux(video) if p.pts is not None)
        container.seek(0)
        sound = min(float(p.pts * p.time_base) for p in container.demux(audio) if p.pts is not None)
        later = [chapter["start"] * chapter["time_base"] for chapter in container.chapters()]
    assert np.allclose(np.diff(times), 1 / 24, atol=1e-3) and len(times) == 17
    with av.open(source) as container:
        early = [chapter["start"] * chapter["time_base"] for chapter in container.chapters()]
        stream = container.streams.audio[0]
        first = min(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None)
    assert float(later[1] - early[1]) == pytest.approx(before / 24, abs=1e-3), "the first one starts at 0 in any case"
    assert sound - first == pytest.approx(before / 24, abs=0.03)


def test_the_source_is_not_painted_over_by_what_is_added_after_it(tmp_path: Path) -> None:
    canvas = Canvas(size=Size(64, 48), source=WHOLE, kept=WHOLE, after=2)
    source, target, _ = grown(tmp_path, Media(num_frames=3), canvas)
    assert np.abs(pictures(target)[2].astype(int) - pictures(source)[2]).mean() < 2.5
