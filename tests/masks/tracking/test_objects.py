from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import DEFAULT_DILATION
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import FrameMask, PackedMask, box_mask, make_mask
from vace_batch.masks.tracking.objects import MOST_GAP_FRAMES, Sighting, TrackedObject, track_shot
from vace_batch.masks.tracking.smoothing import SmoothedObject, interpolate_mask
from vace_batch.masks.tracking.trackers import CameraMotion

SIZE = Size(320, 200)


def seen(
    index: int, box: Box, *, label: str = "car", confidence: float = 0.8, colours: tuple[float, ...] = ()
) -> Sighting:
    mask = PackedMask.of(box_mask(index, box))
    return Sighting(index=index, label=label, confidence=confidence, box=box, mask=mask, colours=colours)


def way(frames: range, box_at: Callable[[int], Box], **options: object) -> list[Sighting]:
    return [seen(index, box_at(index), **options) for index in frames]  # type: ignore[arg-type]


def tracked(sightings: list[Sighting], num_frames: int) -> list[TrackedObject]:
    return track_shot(sightings, (0, num_frames), sure=0.25, unsure=0.1)


def frames_of(track: TrackedObject) -> list[int]:
    return [one.index for one in track.sightings]


def test_an_object_is_one_from_its_first_frame_to_its_last() -> None:
    (track,) = tracked(way(range(4, 12), lambda i: Box(10 + 5 * i, 40, 30, 20)), 20)
    assert frames_of(track) == list(range(4, 12)) and track.id == 1


def test_what_is_small_and_fast_is_still_one_object() -> None:
    """It never overlaps itself from frame to frame."""
    (track,) = tracked(way(range(9), lambda i: Box(5 + 34 * i, 60, 26, 26)), 9)
    assert frames_of(track) == list(range(9))


def test_a_short_absence_is_a_gap_and_a_false_box_is_nothing() -> None:
    sightings = way(range(20), lambda i: Box(10 + 4 * i, 40, 30, 20))
    kept = [one for one in sightings if one.index not in (5, 11, 12)]
    (track,) = tracked([*kept, seen(9, Box(250, 150, 30, 30))], 20)
    assert frames_of(track) == [one.index for one in kept]


def test_at_the_end_of_a_shot_one_sighting_is_an_object() -> None:
    assert [frames_of(track) for track in tracked([seen(19, Box(10, 10, 30, 30))], 20)] == [[19]]
    assert tracked([seen(9, Box(10, 10, 30, 30))], 20) == []


def test_what_was_sure_goes_on_with_less_and_what_never_was_does_not_begin() -> None:
    def fading(index: int) -> float:
        return 0.8 if index < 3 else 0.12

    faded = [seen(i, Box(10 + 3 * i, 40, 30, 20), confidence=fading(i)) for i in range(10)]
    doubtful = way(range(10), lambda i: Box(200, 100, 40, 40), confidence=0.2)
    (track,) = tracked(faded + doubtful, 10)
    assert frames_of(track) == list(range(10)) and track.sightings[0].box.x < 100


def test_a_rise_from_doubt_is_followed_back_to_its_beginning() -> None:
    rising = [seen(i, Box(10 + 3 * i, 40, 30, 20), confidence=0.12 if i < 5 else 0.9) for i in range(10)]
    (track,) = tracked(rising, 10)
    assert frames_of(track) == list(range(10))


def test_lookalikes_that_cross_are_kept_apart() -> None:
    right = way(range(30), lambda i: Box(10 + 8 * i, 40, 30, 30))
    left = way(range(30), lambda i: Box(260 - 8 * i, 56, 30, 30))
    first, second = tracked(right + left, 30)
    assert (first.id, second.id) == (1, 2)
    assert [one.box.y for one in first.sightings] == [40] * 30
    assert [one.box.y for one in second.sightings] == [56] * 30


def test_who_leaves_and_comes_back_is_the_same_by_its_looks() -> None:
    red, blue = (1.0, 0.0), (0.0, 1.0)
    first = way(range(8), lambda i: Box(10, 40, 30, 30), colours=red)
    other = way(range(60), lambda i: Box(200, 40, 30, 30), colours=blue)
    back = way(range(50, 60), lambda i: Box(100, 120, 32, 30), colours=red)
    assert [(track.id, track.sightings[0].index) for track in tracked(first + other + back, 60)] == [
        (1, 0), (2, 0), (1, 50),
    ]  # fmt: skip
    stranger = way(range(50, 60), lambda i: Box(100, 120, 32, 30), colours=(0.5, 0.5))
    assert [track.id for track in tracked(first + other + stranger, 60)] == [1, 2, 3]


def test_botsort_takes_the_motion_of_the_camera_out() -> None:
    """A camera that is jerked to and fro: seen from it, two still lookalikes change places with where the other was."""
    jerk = [0, 0, 0, 60, 0, 60, 0, 60, 0, 60]
    boxes = {index: [Box(120 + dx, 80, 30, 30), Box(60 + dx, 80, 30, 30)] for index, dx in enumerate(jerk)}
    sightings = [seen(index, box) for index, pair in boxes.items() for box in pair]
    warps = [np.array([[1.0, 0, step], [0, 1, 0]]) for step in np.diff([0, *jerk])]
    found = track_shot(sightings, (0, 10), sure=0.25, unsure=0.1, warps=warps)
    assert [frames_of(track) for track in found] == [list(range(10))] * 2
    for track in found:
        assert len({one.box.x - dx for one, dx in zip(track.sightings, jerk, strict=True)}) == 1
    without = track_shot(sightings, (0, 10), sure=0.25, unsure=0.1)
    assert [[one.box.x for one in track.sightings] for track in without] != [
        [one.box.x for one in track.sightings] for track in found
    ]


def test_the_camera_is_measured_at_display_scale() -> None:
    random = np.random.default_rng(0)
    scene = cv2.resize(random.integers(0, 256, (60, 100, 3), np.uint8), (400, 240), interpolation=cv2.INTER_CUBIC)
    camera = CameraMotion()
    for left in (0, 4, 10):
        camera.see(scene[20:200, left : left + 320], Size(1280, 720))
    camera.see(np.zeros((180, 320, 3), np.uint8), Size(1280, 720))
    moves = [warp[0, 2] for warp in camera.warps]
    assert moves[0] == 0 and abs(moves[1] + 16) < 1 and abs(moves[2] + 24) < 1 and len(moves) == 4


def test_a_gap_is_filled_by_the_shape_on_its_way() -> None:
    rows, columns = np.mgrid[:40, :40]
    disc = (rows - 19.5) ** 2 + (columns - 19.5) ** 2 < 400

    def at(index: int) -> FrameMask:
        mask = make_mask(index, disc, (20 + 6 * index, 50))
        assert mask is not None
        return mask

    sightings = tuple(
        Sighting(index=i, label="ball", confidence=0.9, box=at(i).box, mask=PackedMask.of(at(i)))
        for i in (0, 1, 2, 6, 7, 8)
    )
    steady = SmoothedObject(sightings, (0, 9), SIZE)
    for index in range(9):
        made = steady.at(index)
        assert made is not None
        true, found = at(index).full(SIZE), made.full(SIZE)
        assert (true & found).sum() / (true | found).sum() > 0.95


def test_a_shaking_box_is_held_still_by_its_neighbours() -> None:
    random = np.random.default_rng(0)
    shake = random.integers(-5, 6, (21, 2))
    boxes = [Box(100 + int(dx), 80 + int(dy), 50, 40) for dx, dy in shake]
    steady = SmoothedObject(tuple(seen(i, box) for i, box in enumerate(boxes)), (0, 21), SIZE)
    true = box_mask(0, Box(100, 80, 50, 40)).full(SIZE)
    raw = np.mean([(box_mask(0, box).full(SIZE) & true).sum() / true.sum() for box in boxes])
    made = [steady.at(index) for index in range(21)]
    held = np.mean([(mask.full(SIZE) & true).sum() / true.sum() for mask in made if mask is not None])
    assert 1 - held < (1 - raw) / 2 and None not in made


def test_a_turn_in_a_gap_is_covered_from_both_sides() -> None:
    """A ball that falls, bounces and rises is not seen where it turns: the straight way between two sightings is short
    of it."""
    height = [20, 24, 34, 50, 72, 100, 134, 100, 72, 50, 34, 24, 20]
    lost = {6, 7}
    boxes = {index: Box(40 + 8 * index, y, 26, 26) for index, y in enumerate(height)}
    steady = SmoothedObject(tuple(seen(i, box) for i, box in boxes.items() if i not in lost), (0, 13), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and made.within(box).mean() > 0.8, index


BOUNCE = {40: 183, 41: 197, 42: 214, 43: 240, 44: 266, 45: 301, 46: 263, 47: 230, 48: 203, 49: 180, 50: 167}
"""Where the middle of a ball of 29 px is; it bounces while it falls by more than its height from frame to frame."""


@pytest.mark.parametrize(
    "lost", [{46}, {46, 47}, {46, 47, 49}, {44, 45}, {43, 44, 47}, {45, 47, 49}, {48, 49}, {47, 48, 50}]
)
def test_a_fast_turn_that_nobody_saw_does_not_end_an_object(lost: set[int]) -> None:
    """Few sightings after it, or one alone, say little of where it went."""
    boxes = {index: Box(80 + 12 * (index - 40), y - 160, 29, 29) for index, y in BOUNCE.items()}
    sightings = [seen(index, box) for index, box in boxes.items() if index not in lost]
    (track,) = track_shot(sightings, (0, 51), sure=0.25, unsure=0.1)
    assert frames_of(track) == [one.index for one in sightings]
    steady = SmoothedObject(track.sightings, (0, 51), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and dilate(made, SIZE, DEFAULT_DILATION).within(box).mean() > 0.9, index


def test_single_sightings_far_apart_in_time_are_no_object() -> None:
    places = {9: Box(200, 40, 60, 40), 21: Box(210, 60, 50, 50), 23: Box(190, 50, 60, 60)}
    assert tracked([seen(index, box) for index, box in places.items()], 40) == []


def test_what_is_seen_beside_an_object_instead_of_it_does_not_uncover_it() -> None:
    """On frame 1 the detector misses it, and takes something near it for it."""
    boxes = {index: Box(100 + 4 * index, 80, 60, 60) for index in range(12)}
    seen_as = boxes | {1: Box(66, 100, 40, 24)}
    steady = SmoothedObject(tuple(seen(i, box) for i, box in seen_as.items()), (0, 12), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and made.within(box.pad(-2)).all(), index


def test_a_detector_that_shakes_gets_room_for_it_and_a_steady_one_none() -> None:
    random = np.random.default_rng(3)
    shaken = [Box(100 + int(dx), 80 + int(dy), 50, 40) for dx, dy in random.integers(-5, 6, (31, 2))]
    for boxes, room in ((shaken, 2), ([Box(100 + 3 * i, 80, 50, 40) for i in range(31)], 0)):
        steady = SmoothedObject(tuple(seen(i, box) for i, box in enumerate(boxes)), (0, 31), SIZE)
        for index, box in enumerate(boxes):
            made = steady.at(index)
            assert made is not None and (made.box == box if not room else made.within(box.pad(1)).all())


def test_there_is_more_room_where_nothing_was_seen_and_where_the_picture_ends() -> None:
    random = np.random.default_rng(3)
    shake = random.integers(-5, 6, (31, 2))

    def rows(x: int, lost: int | None) -> int:
        boxes = {i: Box(x + int(dx), 80 + int(dy), 50, 40).clip(SIZE) for i, (dx, dy) in enumerate(shake)}
        kept = tuple(seen(i, box) for i, box in boxes.items() if box is not None and i != lost)
        made = SmoothedObject(kept, (0, 31), SIZE).at(15)
        assert made is not None
        return made.box.height

    assert rows(-20, None) == rows(100, None) + 4
    assert rows(100, 15) >= rows(100, None) + 2


def test_an_object_is_led_on_over_its_ends_but_not_out_of_the_shot() -> None:
    steady = SmoothedObject(tuple(way(range(5, 10), lambda i: Box(100 + 4 * i, 80, 30, 30))), (0, 30), SIZE)
    assert (steady.start, steady.stop) == (3, 12)
    ahead = steady.at(11)
    assert ahead is not None and ahead.box.right == 100 + 4 * 11 + 30
    assert steady.at(2) is None and steady.at(12) is None
    assert SmoothedObject(tuple(way(range(5), lambda i: Box(9, 9, 9, 9))), (0, 5), SIZE).stop == 5


def test_nothing_that_was_seen_is_taken_away() -> None:
    """An arm is stretched out for one frame."""
    boxes = [Box(100, 80, 40, 40)] * 4 + [Box(100, 80, 90, 40)] + [Box(100, 80, 40, 40)] * 4
    made = SmoothedObject(tuple(seen(i, box) for i, box in enumerate(boxes)), (0, 9), SIZE).at(4)
    assert made is not None and made.within(Box(100, 80, 90, 40)).all()


def test_a_shape_between_two_is_between_them() -> None:
    made = interpolate_mask(box_mask(0, Box(10, 10, 20, 20)), box_mask(4, Box(50, 30, 40, 40)), 2, 0.5, SIZE)
    assert made is not None and made.index == 2
    assert abs(made.box.x - 30) <= 1 and abs(made.box.width - 30) <= 2 and abs(made.box.y - 20) <= 1


def test_longer_absences_are_two_lives() -> None:
    sightings = way(range(5), lambda i: Box(50, 50, 30, 30)) + way(
        range(6 + MOST_GAP_FRAMES, 30), lambda i: Box(50, 50, 30, 30)
    )
    assert len(tracked(sightings, 30)) == 2
