"""The finder of objects: picks, cuts, and, with a memory, finds objects in a shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.mask_requests import removal
from tests.support.small_sam2 import SIZE, NoiseClip, noise_frames, point_mark
from vace_batch.geometry import Box
from vace_batch.manifest.job import BoxKey, Pick
from vace_batch.masks.clip import _marked_objects
from vace_batch.masks.finder import ObjectFinder, _Shot, clip_to_prompt, picked
from vace_batch.masks.keyframes import box_tracks
from vace_batch.masks.notes import Fallbacks, FrameObjects
from vace_batch.masks.segmenters.sam import Prompt, Segmenter
from vace_batch.masks.segmenters.sam2_memory import Memory
from vace_batch.masks.store import PackedMask, box_mask
from vace_batch.masks.tracking.memory import MarkedObject
from vace_batch.masks.tracking.objects import Sighting, TrackedObject
from vace_batch.video.reader import read_frames


def tracked(number: int, label: str, side: int) -> TrackedObject:
    box = Box(0, 0, side, side)
    one = Sighting(index=0, label=label, confidence=0.9, box=box, mask=PackedMask.of(box_mask(0, box)))
    return TrackedObject(id=number, label=label, sightings=(one,))


@pytest.mark.parametrize(
    ("pick", "ids"),
    [
        (Pick(), [1, 2, 3, 2]),
        (Pick(largest=True), [2, 2]),
        (Pick(tracks=(3, 9)), [3]),
        (Pick(exclude=("DOG",)), [1, 3]),
        (Pick(exclude=("dog",), largest=True), [3]),
    ],
)
def test_only_what_is_meant_is_picked(pick: Pick, ids: list[int]) -> None:
    objects = [tracked(1, "cat", 10), tracked(2, "dog", 20), tracked(3, "cat", 25), tracked(2, "dog", 20)]
    assert [one.id for one in picked(removal(pick=pick), objects)] == ids


def test_a_runaway_outline_is_cut_to_what_asked_for_it() -> None:
    everything = box_mask(0, Box(0, 0, 128, 96))
    kept = clip_to_prompt(everything, Prompt(box=Box(40, 40, 20, 8)), SIZE)
    assert kept is not None and kept.box == Box(35, 35, 30, 18)
    assert clip_to_prompt(box_mask(0, Box(0, 0, 9, 9)), Prompt(box=Box(40, 40, 20, 8)), SIZE) is None
    assert clip_to_prompt(everything, Prompt(points=((1.0, 1.0, True),)), SIZE) is everything


# --- with a memory ---------------------------------------------------------------------------------------------------


def keyed(*frames: int) -> tuple[BoxKey, ...]:
    return tuple(BoxKey(x=40 + 2 * index, y=20, width=24, height=20, frame=index) for index in frames)


def finder_of(memory: Memory, clip: NoiseClip, **fields: Any) -> ObjectFinder:
    return ObjectFinder(
        job=removal(), size=SIZE, segmenter=Segmenter(None, memory), confidence=0.25, read=clip.read, **fields
    )


def objects_in(
    finder: ObjectFinder, clip: NoiseClip, num_frames: int, cuts: tuple[int, ...] = ()
) -> list[FrameObjects]:
    made = list(finder.find(read_frames(clip.path), cuts, (0, num_frames)))
    assert [objects.index for objects in made] == list(range(num_frames))
    assert all(mask.index == objects.index for objects in made for mask in objects.selected)
    return made


def counts_of(
    memory: Memory, clip: NoiseClip, marked: list[MarkedObject], num_frames: int, cuts: tuple[int, ...] = ()
) -> list[int]:
    """Return the number of masks on each frame."""
    made = objects_in(finder_of(memory, clip, marked=marked), clip, num_frames, cuts)
    return [len(objects.selected) for objects in made]


def test_who_is_marked_late_is_found_back_to_the_cut(memory: Memory, tmp_path: Path) -> None:
    clip = NoiseClip(tmp_path / "clip.mkv", noise_frames(8))
    marked = [MarkedObject(marks={5: point_mark(x, 30)}) for x in (20.0, 80.0)]
    assert counts_of(memory, clip, marked, 8, (2, 7)) == [0, 0, 2, 2, 2, 2, 2, 0]


def test_what_only_the_memory_found_is_said(memory: Memory, tmp_path: Path) -> None:
    clip = NoiseClip(tmp_path / "clip.mkv", noise_frames(8))
    marked = MarkedObject(marks={3: point_mark(50, 30), 5: point_mark(50, 30)})
    fallbacks = Fallbacks()
    for objects in objects_in(finder_of(memory, clip, marked=[marked]), clip, 8, (2,)):
        fallbacks.see(objects)
    assert list(fallbacks.notes()) == ["from_memory: SAM 2's memory alone found an object on 4 frames (2, 4, 6-7)"]


@pytest.mark.parametrize(
    ("keys", "cuts", "counts"),
    [
        (keyed(3), (), [1, 1, 1, 1, 1, 1]),
        (keyed(3), (2, 5), [0, 0, 1, 1, 1, 0]),
        (keyed(1, 4), (), [0, 1, 1, 1, 1, 0]),
        (keyed(1, 5), (2, 4), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_boxes_mark_too_and_several_say_from_when_to_when(
    memory: Memory, tmp_path: Path, keys: tuple[BoxKey, ...], cuts: tuple[int, ...], counts: list[int]
) -> None:
    clip = NoiseClip(tmp_path / "clip.mkv", noise_frames(6))
    marked, prompted = _marked_objects(box_tracks(keys, SIZE, 6, cuts), {}, SIZE, Segmenter(None, memory))
    assert prompted == []
    assert [min(count, 1) for count in counts_of(memory, clip, marked, 6, cuts)] == counts


def test_a_box_without_a_frame_stays_a_prompt_on_each(memory: Memory) -> None:
    still = BoxKey(x=10, y=10, width=20, height=20)
    boxed = box_tracks((still, *keyed(2)), SIZE, 6)
    points = {0: {4: ((50.0, 30.0, True),)}}
    marked, prompted = _marked_objects(boxed, points, SIZE, Segmenter(None, memory))
    assert [track.keys for track in prompted] == [(still,)]
    assert [sorted(one.marks) for one in marked] == [[2, 4]] and marked[0].marks[4].box is None
    assert _marked_objects(boxed, {}, SIZE, Segmenter(None)) == ([], list(boxed)), "without a memory, too"


def test_gaps_that_only_the_memory_filled_are_noted(memory: Memory, tmp_path: Path) -> None:
    clip = NoiseClip(tmp_path / "clip.mkv", [noise_frames(1)[0]] * 9)
    memory.see(noise_frames(1)[0])
    mask = memory.find(memory.new_past(), 0, point_mark(50, 30))
    assert mask is not None
    packed = PackedMask.of(mask)
    seen = tuple(Sighting(index=i, label="dog", confidence=0.9, box=mask.box, mask=packed) for i in (2, 3, 6))
    shot = _Shot(start=1, stop=9, followers=(), camera=None)
    finder_of(memory, clip)._smoothed(TrackedObject(id=4, label="dog", sightings=seen), shot)
    assert shot.from_memory == {1, 4, 5, 7, 8}
