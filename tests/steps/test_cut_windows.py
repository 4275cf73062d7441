"""Windows of a clip's holes: the frames of an extension, and the facts of a window that decide pixels."""

from __future__ import annotations

import pytest

from tests.support.media_files import Media
from tests.support.prepared_clips import Prepare
from vace_batch.errors import ClipError
from vace_batch.manifest.job import BoxKey, Extend


def test_an_extension_that_no_window_holds_is_a_failed_row(prepared: Prepare) -> None:
    with pytest.raises(
        ClipError, match="39 new frames and 1 known; a window of this row takes 33 frames .sampling.max_frames."
    ):
        prepared("extension", Media(width=96, height=64, num_frames=40), extend=Extend())
    media = Media(width=96, height=64, num_frames=40, cut_at=20)
    with pytest.raises(ClipError, match="cross the cut at frame 20"):
        prepared("extension", media, extend=Extend(), start_s=0.6, end_s=1.2)


def test_a_window_names_its_shot_and_the_frame_before_only_where_they_decide_pixels(prepared: Prepare) -> None:
    media = Media(width=96, height=64, num_frames=50, cut_at=40)
    _, plain = prepared("restyle", media, control="gray", seed_scope="window")
    assert {(planned.shot, planned.lead_pts) for planned in plain.windows} == {(None, None)}
    _, shared = prepared("restyle", media, control="gray", seed_scope="shot")
    assert {(planned.shot, planned.lead_pts) for planned in shared.windows} == {((0, 40), None), ((40, 50), None)}
    _, flow = prepared("restyle", media, control="flow")
    first, second, third = flow.windows
    assert first.shot == second.shot == (0, 40) and third.shot == (40, 50)
    assert first.lead_pts is None is third.lead_pts
    assert second.lead_pts is not None and first.start_pts < second.lead_pts < second.start_pts


def test_equal_masks_have_equal_digests_and_moved_boxes_have_others(prepared: Prepare) -> None:
    box = BoxKey(x=16, y=16, width=24, height=24)
    digests = []
    for boxes in ((box,), (box,), (BoxKey(x=18, y=16, width=24, height=24),)):
        _, plan = prepared("inpainting", boxes=boxes)
        digests.append([planned.known_digest for planned in plan.windows])
    assert digests[0] == digests[1] != digests[2]
