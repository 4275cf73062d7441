"""Source and output side by side: the spans that are compared, and changes outside the masks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.support.fills import NUM_FRAMES, SIZE, pictures
from vace_batch.geometry import Box
from vace_batch.quality.compare import Comparison, compared_spans
from vace_batch.quality.meter import Meter
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip


def test_a_masks_neighbourhood_is_watched_and_no_more() -> None:
    assert list(compared_spans([5, 6, 60], 100)) == [range(19), range(48, 73)]
    assert list(compared_spans([5, 25, 49], 50)) == [range(50)]
    assert list(compared_spans([], 50)) == []


def test_changes_outside_the_mask_are_found(tmp_path: Path) -> None:
    frames = [pictures(index) for index in range(NUM_FRAMES)]
    paths = [str(tmp_path / name) for name in ("source.mp4", "good.mp4", "bad.mp4")]
    for path, kind in zip(paths, (0, 1, 1), strict=True):
        made = [frame[kind].clip(0, 255).astype(np.uint8) for frame in frames]
        if path.endswith("bad.mp4"):
            made[7][90:122, 4:36] += 12
        write_clip(path, made, rate=Fraction(25), crf=16)
    for path, least, most in ((paths[1], 0.0, 3.0), (paths[2], 8.0, 16.0)):
        whole = Box(0, 0, SIZE.width, SIZE.height)
        comparison = Comparison(
            source=paths[0],
            output=path,
            source_pts=packet_times(paths[0]),
            output_pts=packet_times(path),
            canvas=Canvas(size=SIZE, source=whole, kept=whole),
            num_frames=NUM_FRAMES,
            masks=lambda start, stop: {index: frames[index][2] for index in range(start, stop)},
            touched=(),
        )
        meter = Meter((0,), ())
        comparison.compare(range(NUM_FRAMES), meter)
        assert least <= meter.metrics()["outside"] <= most
