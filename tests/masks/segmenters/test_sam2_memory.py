"""The memory of SAM 2: the real architecture, small and with random weights of a fixed seed."""

from __future__ import annotations

import pytest

from tests.support.small_sam2 import SIZE, noise_frames, point_mark
from vace_batch.geometry import Box
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.masks.store import FrameMask, box_mask


def found(memory: Memory, mark: Mark, count: int = 4) -> list[FrameMask | None]:
    """The marked object on each of `count` frames."""
    past = memory.new_past()
    made = []
    for index, frame in enumerate(noise_frames(count)):
        memory.see(frame)
        made.append(memory.find(past, index, mark if index == 0 else None))
    return made


@pytest.mark.parametrize(
    "marks", [(point_mark(50, 30), point_mark(10, 50)), (Mark(box=Box(40, 20, 30, 25)), Mark(box=Box(2, 2, 20, 20)))]
)
def test_what_was_marked_decides_later_frames(memory: Memory, marks: tuple[Mark, Mark]) -> None:
    one = found(memory, marks[0])
    assert all(mask is not None and mask.box.clip(SIZE) == mask.box for mask in one)
    assert [mask.index for mask in one if mask is not None] == [0, 1, 2, 3]
    assert found(memory, marks[0]) == one, "the past of one object is not another's"
    other = found(memory, marks[1])
    assert other[3] is not None and other[3] != one[3]


def test_a_mask_marks_what_it_covers(memory: Memory) -> None:
    mask = box_mask(0, Box(60, 10, 30, 40))
    (same, *_) = found(memory, Mark(mask=mask))
    assert same is not None
    union = same.box.union(mask.box)
    assert (same.within(union) & mask.within(union)).sum() / (same.within(union) | mask.within(union)).sum() > 0.8
