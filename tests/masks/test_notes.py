"""Notes for people about a clip's masks."""

from __future__ import annotations

from vace_batch.geometry import Box
from vace_batch.masks.notes import Fallbacks, FrameObjects, Notes
from vace_batch.masks.store import box_mask


def test_frames_of_a_note_are_told_in_spans() -> None:
    fallbacks = Fallbacks()
    for index in range(40):
        fallbacks.see(FrameObjects(index=index, from_memory=index in (4, 7, 8), without_outline=index % 4 == 0))
    memory, outline = fallbacks.notes()
    assert "3 frames (4, 7-8)" in memory
    assert "10 frames (0, 4, 8, 12, 16, 20, 24, 28, ...)" in outline, "of many spans the first"
    assert list(Fallbacks().notes()) == []


def test_notes_are_told_once_and_objects_only_where_they_are_asked_for() -> None:
    notes = Notes()
    notes.add("one")
    notes.add("one")
    mask = box_mask(3, Box(1, 2, 3, 4))
    frame = FrameObjects(index=3, selected=[mask, mask], names=["", "dog 1"])
    notes.see(frame)
    assert notes.notes == ["one"] and notes.objects is None
    wanted = Notes(objects={})
    wanted.see(frame)
    assert wanted.objects == {3: [("dog 1", mask.box)]}
