"""The video path of SAM 2: the real architecture, small and with random weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.masks.test_clip_sources import job
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey
from vace_batch.masks.clip import _marked_objects
from vace_batch.masks.detectors.yolo import import_ultralytics
from vace_batch.masks.finder import Fallbacks, FrameObjects, ObjectFinder, _Shot
from vace_batch.masks.keyframes import box_tracks
from vace_batch.masks.segmenters.sam import Segmenter
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.masks.store import FrameMask, PackedMask, box_mask
from vace_batch.masks.tracking.memory import MarkedObject, ObjectFollower, fill_from_memory, track_by_memory
from vace_batch.masks.tracking.objects import Sighting, TrackedObject
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames

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


def found(memory: Memory, marks: dict[int, Mark], count: int = 4, cut: int | None = None) -> list[FrameMask | None]:
    marked = MarkedObject(marks=marks)
    follower = ObjectFollower(marked)
    made = []
    for index, frame in enumerate(frames(count)):
        if index == cut:
            follower = ObjectFollower(marked)
        memory.see(frame)
        made.append(next(iter(follower.remembered(memory, index, SIZE).masks), None))
    return made


def at(x: float, y: float, positive: bool = True) -> Mark:
    return Mark(points=((x, y, positive),))


@pytest.mark.parametrize(
    "marks", [(at(50, 30), at(10, 50)), (Mark(box=Box(40, 20, 30, 25)), Mark(box=Box(2, 2, 20, 20)))]
)
def test_what_was_marked_decides_later_frames(memory: Memory, marks: tuple[Mark, Mark]) -> None:
    one = found(memory, {0: marks[0]})
    assert all(mask is not None and mask.box.clip(SIZE) == mask.box for mask in one)
    assert [mask.index for mask in one if mask is not None] == [0, 1, 2, 3]
    assert found(memory, {0: marks[0]}) == one, "the past of one object is not another's"
    other = found(memory, {0: marks[1]})
    assert other[3] is not None and other[3] != one[3]


def test_nothing_is_found_before_it_is_marked_or_beyond_a_cut(memory: Memory) -> None:
    made = found(memory, {1: at(50, 30)}, cut=3)
    assert [mask is not None for mask in made] == [False, True, True, False]


def test_a_later_point_corrects_what_is_remembered(memory: Memory) -> None:
    plain = found(memory, {0: at(50, 30)})
    corrected = found(memory, {0: at(50, 30), 2: at(12, 12, positive=False)})
    assert corrected[:2] == plain[:2] and corrected[2] != plain[2]


def test_a_mask_marks_what_it_covers(memory: Memory) -> None:
    mask = box_mask(0, Box(60, 10, 30, 40))
    (same, *_) = found(memory, {0: Mark(mask=mask)})
    assert same is not None
    union = same.box.union(mask.box)
    assert (same.within(union) & mask.within(union)).sum() / (same.within(union) | mask.within(union)).sum() > 0.8


# --- both ways over a shot -------------------------------------------------------------------------------------------


class Clip:
    """A real video of `frames`, and which of its frames were asked for."""

    def __init__(self, path: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
        with av.open(str(path), "w") as sink:
            stream = sink.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, "bgr0"
            for rgb in pictures:
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
            sink.mux(stream.encode(None))
        self.path = str(path)
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> Iterator[Frame]:
        self.asked.append((start, stop))
        return read_frames(self.path, start, stop)


def bits(masks: Iterable[FrameMask]) -> list[list[bool]]:
    return [mask.full(SIZE).ravel().tolist() for mask in masks]


def test_backwards_is_forwards_through_the_frames_in_reverse(memory: Memory, tmp_path: Path) -> None:
    pictures, mark = frames(11), at(50, 30)
    plain = Clip(tmp_path / "plain.mkv", pictures)
    back = list(track_by_memory(memory, mark, 10, 0, plain.read))
    assert [mask.index for mask in back] == list(range(9, 0, -1))
    assert plain.asked == [(3, 11), (1, 3)], "a few frames at a time"
    ahead = list(track_by_memory(memory, mark, 0, 10, Clip(tmp_path / "turned.mkv", pictures[::-1]).read))
    assert bits(ahead) == bits(back) and len(set(map(str, bits(back)))) == 9


def finder_of(memory: Memory, clip: Clip, **fields: Any) -> ObjectFinder:
    return ObjectFinder(
        job=job(), size=SIZE, segmenter=Segmenter(None, memory), confidence=0.25, read=clip.read, **fields
    )


def objects_in(finder: ObjectFinder, clip: Clip, num_frames: int, cuts: tuple[int, ...] = ()) -> list[FrameObjects]:
    made = list(finder.find(read_frames(clip.path), cuts, (0, num_frames)))
    assert [objects.index for objects in made] == list(range(num_frames))
    assert all(mask.index == objects.index for objects in made for mask in objects.selected)
    return made


def counts_of(
    memory: Memory, clip: Clip, marked: list[MarkedObject], num_frames: int, cuts: tuple[int, ...] = ()
) -> list[int]:
    """How many masks each frame has."""
    made = objects_in(finder_of(memory, clip, marked=marked), clip, num_frames, cuts)
    return [len(objects.selected) for objects in made]


def test_who_is_marked_late_is_found_back_to_the_cut(memory: Memory, tmp_path: Path) -> None:
    clip = Clip(tmp_path / "clip.mkv", frames(8))
    marked = [MarkedObject(marks={5: at(x, 30)}) for x in (20.0, 80.0)]
    assert counts_of(memory, clip, marked, 8, (2, 7)) == [0, 0, 2, 2, 2, 2, 2, 0]


def test_what_only_the_memory_found_is_said(memory: Memory, tmp_path: Path) -> None:
    clip = Clip(tmp_path / "clip.mkv", frames(8))
    marked = MarkedObject(marks={3: at(50, 30), 5: at(50, 30)})
    fallbacks = Fallbacks()
    for objects in objects_in(finder_of(memory, clip, marked=[marked]), clip, 8, (2,)):
        fallbacks.see(objects)
    assert list(fallbacks.notes()) == ["from_memory: SAM 2's memory alone found an object on 4 frames (2, 4, 6-7)"]


def keyed(*frames: int) -> tuple[BoxKey, ...]:
    return tuple(BoxKey(x=40 + 2 * index, y=20, width=24, height=20, frame=index) for index in frames)


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
    clip = Clip(tmp_path / "clip.mkv", frames(6))
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
    clip = Clip(tmp_path / "clip.mkv", [frames(1)[0]] * 9)
    memory.see(frames(1)[0])
    mask = memory.find(memory.new_past(), 0, at(50, 30))
    assert mask is not None
    packed = PackedMask.of(mask)
    seen = tuple(Sighting(index=i, label="dog", confidence=0.9, box=mask.box, mask=packed) for i in (2, 3, 6))
    made = fill_from_memory(TrackedObject(id=4, label="dog", sightings=seen), memory, (1, 9), clip.read)
    assert (made.id, [one.index for one in made.sightings]) == (4, list(range(1, 9)))
    assert [one for one in made.sightings if one.confidence] == list(seen), "what was seen stays as it was"
    assert all(start >= 1 and stop <= 9 for start, stop in clip.asked)
    shot = _Shot(start=1, stop=9, followers=(), camera=None)
    finder_of(memory, clip)._smoothed(TrackedObject(id=4, label="dog", sightings=seen), shot)
    assert shot.from_memory == {1, 4, 5, 7, 8}


def test_what_grows_to_the_whole_picture_is_lost(memory: Memory, tmp_path: Path) -> None:
    """The memory of an object of a few pixels; random weights find much more."""
    clip = Clip(tmp_path / "clip.mkv", frames(9))
    mark = Mark(mask=box_mask(0, Box(50, 30, 2, 2)))
    assert list(track_by_memory(memory, mark, 0, 9, clip.read)), "without patience all is taken"
    assert list(track_by_memory(memory, mark, 0, 9, clip.read, patience=2)) == []
