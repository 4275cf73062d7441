from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, PointKey
from vace_batch.masks.keyframes import box_tracks, points_by_object

SIZE = Size(100, 80)


def at(index: int, *keys: BoxKey, num_frames: int = 20) -> list[Box | None]:
    return [track.at(index, SIZE) for track in box_tracks(keys, SIZE, num_frames)]


def test_a_static_box_is_there_in_each_frame_and_rounded_outward() -> None:
    key = BoxKey(x=1.2, y=3.0, width=10.0, height=4.5)
    assert at(0, key) == at(19, key) == [Box(1, 3, 11, 5)]


def test_a_box_is_clipped_to_the_frame() -> None:
    assert at(0, BoxKey(x=-5, y=70, width=10, height=30)) == [Box(0, 70, 5, 10)]


def test_keyframes_are_joined_linearly_and_end_with_the_last() -> None:
    keys = (BoxKey(x=10, y=0, width=10, height=10, frame=4), BoxKey(x=50, y=20, width=20, height=10, frame=8))
    assert at(3, *keys) == [None]
    assert at(4, *keys) == [Box(10, 0, 10, 10)]
    assert at(5, *keys) == [Box(20, 5, 13, 10)]  # right edge 32.5, rounded outward
    assert at(8, *keys) == [Box(50, 20, 20, 10)]
    assert at(9, *keys) == [None]


def test_rounding_of_the_interpolation_adds_no_pixel() -> None:
    keys = (BoxKey(x=0, y=0, width=10.1, height=9, frame=0), BoxKey(x=0, y=0, width=68.9, height=9, frame=28))
    assert at(19, *keys, num_frames=30) == [Box(0, 0, 50, 9)]  # in floats 50.00000000000001


def test_a_box_does_not_travel_across_a_cut() -> None:
    keys = (BoxKey(x=0, y=0, width=10, height=10, frame=0), BoxKey(x=80, y=0, width=10, height=10, frame=8))
    (track,) = box_tracks(keys, SIZE, 20, cuts=[3])
    assert [box.x for index in range(9) if (box := track.at(index, SIZE))] == [0, 0, 0, 80, 80, 80, 80, 80, 80]
    (track,) = box_tracks(keys, SIZE, 20, cuts=[9, 6, 2])
    assert [box.x for index in range(9) if (box := track.at(index, SIZE))] == [0, 0, 20, 30, 40, 50, 80, 80, 80]


def test_objects_move_apart_and_order_does_not_matter() -> None:
    keys = [
        BoxKey(x=20, y=0, width=5, height=5, frame=10, object_id=1),
        BoxKey(x=0, y=50, width=5, height=5, frame=0, object_id=2),
        BoxKey(x=0, y=0, width=5, height=5, frame=0, object_id=1),
        BoxKey(x=20, y=50, width=5, height=5, frame=10, object_id=2),
    ]
    assert sorted(map(str, at(5, *keys))) == sorted(map(str, [Box(10, 0, 5, 5), Box(10, 50, 5, 5)]))


def test_an_object_may_enter_from_outside() -> None:
    keys = (BoxKey(x=-30, y=0, width=10, height=10, frame=0), BoxKey(x=20, y=0, width=10, height=10, frame=10))
    assert at(0, *keys) == [None] and at(10, *keys) == [Box(20, 0, 10, 10)]


@given(st.floats(-50, 120), st.floats(-50, 120), st.floats(0.01, 90), st.floats(0.01, 90))
def test_the_pixels_of_a_box_hold_it(x: float, y: float, width: float, height: float) -> None:
    key = BoxKey(x=x, y=y, width=width, height=height)
    try:
        (box,) = at(0, key)
    except ClipError as error:
        assert error.code == "box_outside_frame"
        assert x >= 99.99 or y >= 79.99 or x + width <= 0.01 or y + height <= 0.01
        return
    assert box is not None and box.clip(SIZE) == box
    assert box.x <= max(x, 0) + 1e-5 and box.right >= min(x + width, 100) - 1e-5
    assert box.y <= max(y, 0) + 1e-5 and box.bottom >= min(y + height, 80) - 1e-5


@pytest.mark.parametrize(
    ("code", "keys"),
    [
        ("box_outside_frame", [BoxKey(x=100, y=0, width=5, height=5)]),
        ("box_outside_frame", [BoxKey(x=0, y=-9, width=5, height=5, frame=f) for f in (0, 9)]),
        ("bad_box", [BoxKey(x=float("nan"), y=0, width=5, height=5)]),
        ("bad_box", [BoxKey(x=0, y=0, width=0, height=5)]),
        ("keyframe_outside_video", [BoxKey(x=0, y=0, width=5, height=5, frame=20)]),
        ("duplicate_keyframe", [BoxKey(x=x, y=0, width=5, height=5, frame=3) for x in (0, 9)]),
    ],
)
def test_what_cannot_be_meant_is_refused(code: str, keys: list[BoxKey]) -> None:
    with pytest.raises(ClipError) as error:
        box_tracks(keys, SIZE, 20)
    assert error.value.code == code


def test_points_are_grouped_by_object_and_frame() -> None:
    points = [
        PointKey(x=5, y=6, frame=3, object_id=2),
        PointKey(x=1, y=2, frame=3, object_id=1),
        PointKey(x=7, y=8, frame=3, object_id=2, positive=False),
        PointKey(x=9, y=9, frame=1, object_id=2),
    ]
    grouped = points_by_object(points, SIZE, (1, 4))
    assert grouped == {1: {3: ((1, 2, True),)}, 2: {1: ((9, 9, True),), 3: ((5, 6, True), (7, 8, False))}}
