from __future__ import annotations

from collections.abc import Callable

from vace_batch.geometry import Box, Size
from vace_batch.masks.detectors.detection import Detection
from vace_batch.masks.store import box_mask
from vace_batch.masks.tracking.frame_skipping import detect_with_skipping

SIZE = Size(640, 360)
Where = Callable[[int], Box | None]


def run(where: list[Where], num_frames: int, most: int = 4) -> tuple[dict[int, list[Detection]], list[int]]:
    looked: list[int] = []

    def look(index: int, picture: int) -> list[Detection]:
        assert picture == index
        looked.append(index)
        boxes = [box for at in where if (box := at(index)) is not None]
        return [Detection(box=box, label="car", confidence=0.9, mask=box_mask(index, box)) for box in boxes]

    pictures = ((index, index) for index in range(num_frames))
    found = list(detect_with_skipping(pictures, look, SIZE, most))
    assert [index for index, _ in found] == list(range(num_frames))
    return dict(found), looked


def right(found: dict[int, list[Detection]], where: list[Where], off: int = 1) -> bool:
    for index, detections in found.items():
        boxes = sorted((box for at in where if (box := at(index)) is not None), key=lambda box: box.y)
        if len(boxes) != len(detections):
            return False
        for box, one in zip(boxes, sorted(detections, key=lambda one: one.box.y), strict=True):
            pairs = ((box.x, one.box.x), (box.y, one.box.y), (box.right, one.box.right), (box.bottom, one.box.bottom))
            if max(abs(a - b) for a, b in pairs) > off:
                return False
    return True


def test_what_moves_evenly_is_looked_at_seldom() -> None:
    where: list[Where] = [lambda i: Box(10 + 5 * i, 40 + i, 60, 40), lambda i: Box(500 - 7 * i, 200, 50, 50)]
    found, looked = run(where, 50)
    assert right(found, where) and len(looked) <= 17


def test_nothing_is_looked_for_seldom_too() -> None:
    found, looked = run([], 50)
    assert not any(found.values()) and len(looked) <= 17


def test_an_object_appears_and_goes_on_its_own_frame() -> None:
    def late(index: int) -> Box | None:
        return Box(100, 100, 50, 50) if 22 <= index < 35 else None

    found, _ = run([late], 50)
    assert right(found, [late])


def test_a_bounce_is_looked_at_frame_by_frame() -> None:
    def ball(index: int) -> Box:
        return Box(10 + 6 * index, 300 - round(abs(120 - (index * 17) % 240)), 26, 26)

    found, _ = run([ball], 60)
    assert right(found, [ball], off=2)


def test_every_frame_when_asked() -> None:
    _, looked = run([lambda i: Box(10 + 5 * i, 40, 60, 40)], 20, most=1)
    assert looked == list(range(20))
