"""Control videos drawn from whole source frames, in windows of real clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.support.media_files import Media
from tests.support.prepared_clips import FRAMES, Prepare, Windows
from vace_batch.manifest.job import BoxKey
from vace_batch.steps import build as build_step

BOX = BoxKey(x=16, y=16, width=24, height=24)


def test_layout_draws_the_box_where_it_is_on_white(windows: Windows) -> None:
    keys = (replace(BOX, frame=0), replace(BOX, frame=FRAMES - 1, x=50.0))
    [vcu] = windows("restyle", control="layout_bbox", boxes=keys)
    for frame, left in ((0, 16), (FRAMES - 1, 50)):
        drawn = (vcu.frames_THWC[frame] < 250).any(axis=-1)
        assert abs(int(np.flatnonzero(drawn.any(axis=0))[0]) - left) <= 1
        assert not drawn[22:34, left + 6 : left + 18].any()


def test_flow_is_drawn_alike_in_every_window_of_a_shot_and_by_one_scale(
    prepared: Prepare,
) -> None:
    media = Media(width=96, height=64, num_frames=50, cut_at=40)
    work, plan = prepared("restyle", media, control="flow")
    assert len(plan.scales) == len(plan.shots) == 2
    vcus = [build_step.build(work, plan, planned) for planned in plan.windows]
    first, second = (planned.window for planned in plan.windows[:2])
    assert second.start < first.stop
    here, there = vcus[0].frames_THWC[second.start - first.start :], vcus[1].frames_THWC[: first.stop - second.start]
    np.testing.assert_array_equal(here, there)
