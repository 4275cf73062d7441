from __future__ import annotations

import pytest

from tests.support.sightings import seen_at, seen_on
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import DEFAULT_DILATION
from vace_batch.masks.refine import dilate
from vace_batch.masks.tracking.objects import MOST_GAP_FRAMES, Sighting, TrackedObject, track_shot
from vace_batch.masks.tracking.smoothing import SmoothedObject

SIZE = Size(320, 200)


def tracked(sightings: list[Sighting], num_frames: int) -> list[TrackedObject]:
    return track_shot(sightings, (0, num_frames), sure=0.25, unsure=0.1)


def frames_of(track: TrackedObject) -> list[int]:
    return [one.index for one in track.sightings]


def test_an_object_is_one_from_its_first_frame_to_its_last() -> None:
    (track,) = tracked(seen_on(range(4, 12), lambda i: Box(10 + 5 * i, 40, 30, 20)), 20)
    assert frames_of(track) == list(range(4, 12)) and track.id == 1


def test_what_is_small_and_fast_is_still_one_object() -> None:
    """The object never overlaps itself from frame to frame."""
    (track,) = tracked(seen_on(range(9), lambda i: Box(5 + 34 * i, 60, 26, 26)), 9)
    assert frames_of(track) == list(range(9))


def test_a_short_absence_is_a_gap_and_a_false_box_is_nothing() -> None:
    sightings = seen_on(range(20), lambda i: Box(10 + 4 * i, 40, 30, 20))
    kept = [one for one in sightings if one.index not in (5, 11, 12)]
    (track,) = tracked([*kept, seen_at(9, Box(250, 150, 30, 30))], 20)
    assert frames_of(track) == [one.index for one in kept]


def test_at_the_end_of_a_shot_one_sighting_is_an_object() -> None:
    assert [frames_of(track) for track in tracked([seen_at(19, Box(10, 10, 30, 30))], 20)] == [[19]]
    assert tracked([seen_at(9, Box(10, 10, 30, 30))], 20) == []


def test_what_was_sure_goes_on_with_less_and_what_never_was_does_not_begin() -> None:
    def fading(index: int) -> float:
        return 0.8 if index < 3 else 0.12

    faded = [seen_at(i, Box(10 + 3 * i, 40, 30, 20), confidence=fading(i)) for i in range(10)]
    doubtful = seen_on(range(10), lambda i: Box(200, 100, 40, 40), confidence=0.2)
    (track,) = tracked(faded + doubtful, 10)
    assert frames_of(track) == list(range(10)) and track.sightings[0].box.x < 100


def test_a_rise_from_doubt_is_followed_back_to_its_beginning() -> None:
    rising = [seen_at(i, Box(10 + 3 * i, 40, 30, 20), confidence=0.12 if i < 5 else 0.9) for i in range(10)]
    (track,) = tracked(rising, 10)
    assert frames_of(track) == list(range(10))


def test_lookalikes_that_cross_are_kept_apart() -> None:
    right = seen_on(range(30), lambda i: Box(10 + 8 * i, 40, 30, 30))
    left = seen_on(range(30), lambda i: Box(260 - 8 * i, 56, 30, 30))
    first, second = tracked(right + left, 30)
    assert (first.id, second.id) == (1, 2)
    assert [one.box.y for one in first.sightings] == [40] * 30
    assert [one.box.y for one in second.sightings] == [56] * 30


def test_who_leaves_and_comes_back_is_the_same_by_its_looks() -> None:
    red, blue = (1.0, 0.0), (0.0, 1.0)
    first = seen_on(range(8), lambda i: Box(10, 40, 30, 30), colours=red)
    other = seen_on(range(60), lambda i: Box(200, 40, 30, 30), colours=blue)
    back = seen_on(range(50, 60), lambda i: Box(100, 120, 32, 30), colours=red)
    assert [(track.id, track.sightings[0].index) for track in tracked(first + other + back, 60)] == [
        (1, 0), (2, 0), (1, 50),
    ]  # fmt: skip
    stranger = seen_on(range(50, 60), lambda i: Box(100, 120, 32, 30), colours=(0.5, 0.5))
    assert [track.id for track in tracked(first + other + stranger, 60)] == [1, 2, 3]


BOUNCE = {40: 183, 41: 197, 42: 214, 43: 240, 44: 266, 45: 301, 46: 263, 47: 230, 48: 203, 49: 180, 50: 167}
"""Where the middle of a ball of 29 px is; it bounces while it falls by more than its height from frame to frame."""


@pytest.mark.parametrize(
    "lost", [{46}, {46, 47}, {46, 47, 49}, {44, 45}, {43, 44, 47}, {45, 47, 49}, {48, 49}, {47, 48, 50}]
)
def test_a_fast_turn_that_nobody_saw_does_not_end_an_object(lost: set[int]) -> None:
    """Few sightings after it, or one alone, say little of where it went."""
    boxes = {index: Box(80 + 12 * (index - 40), y - 160, 29, 29) for index, y in BOUNCE.items()}
    sightings = [seen_at(index, box) for index, box in boxes.items() if index not in lost]
    (track,) = track_shot(sightings, (0, 51), sure=0.25, unsure=0.1)
    assert frames_of(track) == [one.index for one in sightings]
    steady = SmoothedObject(track.sightings, (0, 51), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and dilate(made, SIZE, DEFAULT_DILATION).within(box).mean() > 0.9, index


def test_single_sightings_far_apart_in_time_are_no_object() -> None:
    places = {9: Box(200, 40, 60, 40), 21: Box(210, 60, 50, 50), 23: Box(190, 50, 60, 60)}
    assert tracked([seen_at(index, box) for index, box in places.items()], 40) == []


def test_longer_absences_are_two_lives() -> None:
    sightings = seen_on(range(5), lambda i: Box(50, 50, 30, 30)) + seen_on(
        range(6 + MOST_GAP_FRAMES, 30), lambda i: Box(50, 50, 30, 30)
    )
    assert len(tracked(sightings, 30)) == 2
