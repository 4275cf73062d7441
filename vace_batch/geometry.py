"""Calculate with boxes, sizes, alignment and the frame counts of Wan's VAE, in integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOKEN_PX = 16
"""Side of a transformer token in pixels: the VAE shrinks frames 8x, the patch embedding 2x more."""

TEMPORAL_STRIDE = 4
"""Frames per latent frame, except for the first latent frame, which is one frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridging:
    """Limits for filling a gap in a recovered background from the gap's sides instead of by the model.

    A gap is filled so if it is at most `px` wide: a token is wider, and generating it would replace real pixels. A
    wider gap is filled so if hiding and filling its surroundings for a trial gives an error within `levels` (of 255,
    root mean square), the model's own error: plain sky or a wall.
    """

    px: int = 12
    levels: float = 4.0


@dataclass(frozen=True, slots=True)
class Size:
    """A width and a height in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size: expected width and height of at least 1, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Box:
    """A pixel box in display orientation: columns x..x+width-1, rows y..y+height-1."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"box: expected width and height of at least 1, got {self.width}x{self.height}")

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The slices that cut the box out of an (H, W, ...) array."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def union(self, other: Box) -> Box:
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Box(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def intersect(self, other: Box) -> Box | None:
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Box(x, y, width, height) if width > 0 and height > 0 else None

    def pad(self, px: int) -> Box:
        """Grow the box by `px` on every side, beyond the frame if need be."""
        return Box(self.x - px, self.y - px, self.width + 2 * px, self.height + 2 * px)

    def clip(self, size: Size) -> Box | None:
        """Return the part of the box inside a frame of `size`, or None."""
        return self.intersect(Box(0, 0, size.width, size.height))

    def shift(self, dx: int, dy: int) -> Box:
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def slices_in(self, outer: Box) -> tuple[slice, slice]:
        """Index a (H, W, ...) array that shows `outer` with this box, which lies inside `outer`."""
        return self.shift(-outer.x, -outer.y).slices


def union_of(boxes: Iterable[Box]) -> Box | None:
    """Return the smallest box that contains all `boxes`; None without boxes."""
    result: Box | None = None
    for box in boxes:
        result = box if result is None else result.union(box)
    return result


def align_up(value: int, multiple: int) -> int:
    """Round `value` up to a multiple of `multiple`."""
    return -(-value // multiple) * multiple


def align_down(value: int, multiple: int) -> int:
    """Round `value` down to a multiple of `multiple`."""
    return value // multiple * multiple


def legal_num_frames(num_frames: int) -> int:
    """Return the smallest 4n+1 that is at least `num_frames`.

    Raises:
        ValueError: `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames: expected at least 1, got {num_frames}")
    return align_up(num_frames - 1, TEMPORAL_STRIDE) + 1


def latent_num_frames(num_frames: int) -> int:
    """Count the latent frames of a clip of `num_frames` = 4n+1 frames."""
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def token_count(num_frames: int, size: Size, num_references: int = 0) -> int:
    """Count the transformer tokens of a window of `num_frames` (4n+1) frames at `size`: 32,760 at 832x480x81.

    Raises:
        ValueError: the frame count is not 4n+1, or a side is not a multiple of 16.
    """
    if (num_frames - 1) % TEMPORAL_STRIDE:
        raise ValueError(f"num_frames: expected 4n+1, got {num_frames}")
    if size.width % TOKEN_PX or size.height % TOKEN_PX:
        raise ValueError(f"size: expected multiples of {TOKEN_PX}, got {size}")
    latent = latent_num_frames(num_frames) + num_references
    return latent * (size.width // TOKEN_PX) * (size.height // TOKEN_PX)
