"""The video path of SAM 2: the real architecture, small and with random weights of a fixed seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.test_masks_source import job
from vace_batch.geometry import Size
from vace_batch.masks.detect import import_ultralytics
from vace_batch.masks.memory import Memory
from vace_batch.masks.segment import Segmenter
from vace_batch.masks.store import FrameMask
from vace_batch.masks.watch import Followed, Points, Watcher

SIZE = Size(100, 60)


@pytest.fixture(scope="module")
def memory() -> Memory:
    import_ultralytics()
    import torch
    from ultralytics.models.sam.build import _build_sam2

    torch.manual_seed(1)
    model = _build_sam2(
        encoder_embed_dim=16,
        encoder_stages=(1, 1, 2, 1),
        encoder_num_heads=1,
        encoder_global_att_blocks=(3,),
        encoder_backbone_channel_list=[128, 64, 32, 16],
    )
    return Memory(model.eval(), device="cpu", side=128)


def frames(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIZE.height, SIZE.width, 3), np.uint8) for _ in range(count)]


def found(memory: Memory, points: dict[int, Points], count: int = 4, cut: int | None = None) -> list[FrameMask | None]:
    follow = Followed(points=points, cuts=frozenset() if cut is None else frozenset({cut}))
    made = []
    for index, frame in enumerate(frames(count)):
        memory.see(frame)
        made.append(follow.remembered(memory, index))
    return made


def test_what_was_marked_decides_later_frames(memory: Memory) -> None:
    one = found(memory, {0: ((50.0, 30.0, True),)})
    assert all(mask is not None and mask.box.clip(SIZE) == mask.box for mask in one)
    assert [mask.index for mask in one if mask is not None] == [0, 1, 2, 3]
    assert found(memory, {0: ((50.0, 30.0, True),)}) == one, "the past of one object is not another's"
    other = found(memory, {0: ((10.0, 50.0, True),)})
    assert other[3] is not None and other[3] != one[3]


def test_nothing_is_found_before_it_is_marked_or_beyond_a_cut(memory: Memory) -> None:
    made = found(memory, {1: ((50.0, 30.0, True),)}, cut=3)
    assert [mask is not None for mask in made] == [False, True, True, False]


def test_a_later_point_corrects_what_is_remembered(memory: Memory) -> None:
    plain = found(memory, {0: ((50.0, 30.0, True),)})
    corrected = found(memory, {0: ((50.0, 30.0, True),), 2: ((12.0, 12.0, False),)})
    assert corrected[:2] == plain[:2] and corrected[2] != plain[2]


def test_objects_of_points_are_found_by_memory_where_the_weights_have_one(memory: Memory) -> None:
    follows = [Followed(points={0: ((x, 30.0, True),)}, cuts=frozenset()) for x in (20.0, 80.0)]
    watcher = Watcher(job=job(), size=SIZE, segmenter=Segmenter(None, memory), confidence=0.25, followed=follows)
    pictures = frames(2)
    assert [[mask.index for mask in watcher._prompted(n, rgb)] for n, rgb in enumerate(pictures)] == [[0, 0], [1, 1]]
