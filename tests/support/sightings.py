"""Sightings of boxes."""

from __future__ import annotations

from collections.abc import Callable

from vace_batch.geometry import Box
from vace_batch.masks.store import PackedMask, box_mask
from vace_batch.masks.tracking.objects import Sighting


def seen_at(
    index: int, box: Box, *, label: str = "car", confidence: float = 0.8, colours: tuple[float, ...] = ()
) -> Sighting:
    mask = PackedMask.of(box_mask(index, box))
    return Sighting(index=index, label=label, confidence=confidence, box=box, mask=mask, colours=colours)


def seen_on(frames: range, box_at: Callable[[int], Box], **options: object) -> list[Sighting]:
    return [seen_at(index, box_at(index), **options) for index in frames]  # type: ignore[arg-type]
