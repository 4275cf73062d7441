"""Masks of an object over its life: gaps, jitter, ends."""

from __future__ import annotations

import numpy as np

from tests.support.sightings import seen_at, seen_on
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import FrameMask, PackedMask, box_mask, make_mask
from vace_batch.masks.tracking.objects import Sighting
from vace_batch.masks.tracking.smoothing import SmoothedObject, interpolate_mask, shift_mask

SIZE = Size(320, 200)


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
    steady = SmoothedObject(tuple(seen_at(i, box) for i, box in enumerate(boxes)), (0, 21), SIZE)
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
    steady = SmoothedObject(tuple(seen_at(i, box) for i, box in boxes.items() if i not in lost), (0, 13), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and made.within(box).mean() > 0.8, index


def test_what_is_seen_beside_an_object_instead_of_it_does_not_uncover_it() -> None:
    """On frame 1 the detector misses the object and reports a region near it instead."""
    boxes = {index: Box(100 + 4 * index, 80, 60, 60) for index in range(12)}
    seen_as = boxes | {1: Box(66, 100, 40, 24)}
    steady = SmoothedObject(tuple(seen_at(i, box) for i, box in seen_as.items()), (0, 12), SIZE)
    for index, box in boxes.items():
        made = steady.at(index)
        assert made is not None and made.within(box.pad(-2)).all(), index


def test_a_detector_that_shakes_gets_room_for_it_and_a_steady_one_none() -> None:
    random = np.random.default_rng(3)
    shaken = [Box(100 + int(dx), 80 + int(dy), 50, 40) for dx, dy in random.integers(-5, 6, (31, 2))]
    for boxes, room in ((shaken, 2), ([Box(100 + 3 * i, 80, 50, 40) for i in range(31)], 0)):
        steady = SmoothedObject(tuple(seen_at(i, box) for i, box in enumerate(boxes)), (0, 31), SIZE)
        for index, box in enumerate(boxes):
            made = steady.at(index)
            assert made is not None and (made.box == box if not room else made.within(box.pad(1)).all())


def test_there_is_more_room_where_nothing_was_seen_and_where_the_picture_ends() -> None:
    random = np.random.default_rng(3)
    shake = random.integers(-5, 6, (31, 2))

    def rows(x: int, lost: int | None) -> int:
        boxes = {i: Box(x + int(dx), 80 + int(dy), 50, 40).clip(SIZE) for i, (dx, dy) in enumerate(shake)}
        kept = tuple(seen_at(i, box) for i, box in boxes.items() if box is not None and i != lost)
        made = SmoothedObject(kept, (0, 31), SIZE).at(15)
        assert made is not None
        return made.box.height

    assert rows(-20, None) == rows(100, None) + 4
    assert rows(100, 15) >= rows(100, None) + 2


def test_an_object_is_led_on_over_its_ends_but_not_out_of_the_shot() -> None:
    steady = SmoothedObject(tuple(seen_on(range(5, 10), lambda i: Box(100 + 4 * i, 80, 30, 30))), (0, 30), SIZE)
    assert (steady.start, steady.stop) == (3, 12)
    ahead = steady.at(11)
    assert ahead is not None and ahead.box.right == 100 + 4 * 11 + 30
    assert steady.at(2) is None and steady.at(12) is None
    assert SmoothedObject(tuple(seen_on(range(5), lambda i: Box(9, 9, 9, 9))), (0, 5), SIZE).stop == 5


def test_nothing_that_was_seen_is_taken_away() -> None:
    """An arm is stretched out for one frame."""
    boxes = [Box(100, 80, 40, 40)] * 4 + [Box(100, 80, 90, 40)] + [Box(100, 80, 40, 40)] * 4
    made = SmoothedObject(tuple(seen_at(i, box) for i, box in enumerate(boxes)), (0, 9), SIZE).at(4)
    assert made is not None and made.within(Box(100, 80, 90, 40)).all()


def test_a_shape_between_two_is_between_them() -> None:
    made = interpolate_mask(box_mask(0, Box(10, 10, 20, 20)), box_mask(4, Box(50, 30, 40, 40)), 2, 0.5, SIZE)
    assert made is not None and made.index == 2
    assert abs(made.box.x - 30) <= 1 and abs(made.box.width - 30) <= 2 and abs(made.box.y - 20) <= 1


def test_a_mask_is_shifted_and_cut_at_the_frame_s_edge() -> None:
    mask = box_mask(0, Box(300, 190, 10, 5))
    assert shift_mask(mask, 3, -20, 8, SIZE) == box_mask(3, Box(280, 198, 10, 2))
    assert shift_mask(mask, 3, 40, 0, SIZE) is None
