"""Objects over their shot by the memory of a small SAM 2, or by their last outline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.support.small_sam2 import SIZE, NoiseClip, noise_frames, point_mark
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey
from vace_batch.masks.clip import _marked_objects
from vace_batch.masks.keyframes import box_tracks
from vace_batch.masks.segmenters.sam import Prompt, Segmenter
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.masks.store import FrameMask, PackedMask, box_mask
from vace_batch.masks.tracking.memory import MarkedObject, ObjectFollower, fill_from_memory, track_by_memory
from vace_batch.masks.tracking.objects import Sighting, TrackedObject


def found(memory: Memory, marks: dict[int, Mark], count: int = 4, cut: int | None = None) -> list[FrameMask | None]:
    marked = MarkedObject(marks=marks)
    follower = ObjectFollower(marked)
    made = []
    for index, frame in enumerate(noise_frames(count)):
        if index == cut:
            follower = ObjectFollower(marked)
        memory.see(frame)
        made.append(next(iter(follower.remembered(memory, index, SIZE).masks), None))
    return made


def test_nothing_is_found_before_it_is_marked_or_beyond_a_cut(memory: Memory) -> None:
    made = found(memory, {1: point_mark(50, 30)}, cut=3)
    assert [mask is not None for mask in made] == [False, True, True, False]


def test_a_later_point_corrects_what_is_remembered(memory: Memory) -> None:
    plain = found(memory, {0: point_mark(50, 30)})
    corrected = found(memory, {0: point_mark(50, 30), 2: point_mark(12, 12, positive=False)})
    assert corrected[:2] == plain[:2] and corrected[2] != plain[2]


def bits(masks: Iterable[FrameMask]) -> list[list[bool]]:
    return [mask.full(SIZE).ravel().tolist() for mask in masks]


def test_backwards_is_forwards_through_the_frames_in_reverse(memory: Memory, tmp_path: Path) -> None:
    pictures, mark = noise_frames(11), point_mark(50, 30)
    plain = NoiseClip(tmp_path / "plain.mkv", pictures)
    back = list(track_by_memory(memory, mark, 10, 0, plain.read))
    assert [mask.index for mask in back] == list(range(9, 0, -1))
    assert plain.asked == [(3, 11), (1, 3)], "a few frames at a time"
    ahead = list(track_by_memory(memory, mark, 0, 10, NoiseClip(tmp_path / "turned.mkv", pictures[::-1]).read))
    assert bits(ahead) == bits(back) and len(set(map(str, bits(back)))) == 9


def keyed(*indices: int) -> tuple[BoxKey, ...]:
    return tuple(BoxKey(x=40 + 2 * index, y=20, width=24, height=20, frame=index) for index in indices)


def test_where_memory_misses_a_keyed_box_the_box_is_masked(memory: Memory) -> None:
    """The memory is asked for something that is far from the second box."""
    keys = (keyed(0)[0], BoxKey(x=1, y=1, width=3, height=3, frame=1))
    (marked,), _ = _marked_objects(box_tracks(keys, SIZE, 2), {}, SIZE, Segmenter(None, memory))
    follower = ObjectFollower(marked)
    blank = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
    for index in range(2):
        memory.see(blank)
        made = follower.remembered(memory, index, SIZE)
        box = marked.box_at(index, SIZE)
        assert box is not None and any(mask.box.intersect(box) for mask in made.masks)
        assert made.has_box == any(mask.box == box for mask in made.masks)


def test_a_detected_object_is_found_where_the_detector_did_not(memory: Memory, tmp_path: Path) -> None:
    clip = NoiseClip(tmp_path / "clip.mkv", [noise_frames(1)[0]] * 9)
    memory.see(noise_frames(1)[0])
    mask = memory.find(memory.new_past(), 0, point_mark(50, 30))
    assert mask is not None
    packed = PackedMask.of(mask)
    seen = tuple(Sighting(index=i, label="dog", confidence=0.9, box=mask.box, mask=packed) for i in (2, 3, 6))
    made = fill_from_memory(TrackedObject(id=4, label="dog", sightings=seen), memory, (1, 9), clip.read)
    assert (made.id, [one.index for one in made.sightings]) == (4, list(range(1, 9)))
    assert [one for one in made.sightings if one.confidence] == list(seen), "what was seen stays as it was"
    assert all(start >= 1 and stop <= 9 for start, stop in clip.asked)


def test_what_grows_to_the_whole_picture_is_lost(memory: Memory, tmp_path: Path) -> None:
    """The memory of an object of a few pixels; random weights find much more."""
    clip = NoiseClip(tmp_path / "clip.mkv", noise_frames(9))
    mark = Mark(mask=box_mask(0, Box(50, 30, 2, 2)))
    assert list(track_by_memory(memory, mark, 0, 9, clip.read)), "without patience all is taken"
    assert list(track_by_memory(memory, mark, 0, 9, clip.read, patience=2)) == []


def test_a_followed_object_is_prompted_by_its_last_outline_until_the_cut() -> None:
    size = Size(128, 96)
    points = ((90.0, 50.0, True),)
    marks = {2: Mark(points=points), 3: Mark(points=((1.0, 1.0, False),))}
    marked = MarkedObject(marks=marks)
    follower = ObjectFollower(marked)
    assert follower.prompt(1, size) is None
    assert follower.prompt(2, size) == Prompt(points=points)
    follower.last_outline = Box(80, 40, 40, 20)
    assert follower.prompt(3, size) == Prompt(box=Box(78, 38, 44, 24), points=((1.0, 1.0, False),))
    assert follower.prompt(4, size) == Prompt(box=Box(78, 38, 44, 24))
    in_the_next_shot = ObjectFollower(marked)
    assert in_the_next_shot.prompt(5, size) is None and in_the_next_shot.prompt(6, size) is None
