"""Check that the pictures of a mask source are masks: black and white, without colour and transparency.

A lossy codec blurs edges and adds noise, and an anti-aliased edge is gray. So gray within a few pixels of both black
and white is an edge, and gray elsewhere is a third level: the labels of objects, or a film.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.store import FrameMask
from vace_batch.video.frame import Frame

Gray = npt.NDArray[np.uint8]

THRESHOLD = 127
"""Brightest level that is kept; above it is the mask."""

_BLACK_BELOW, _WHITE_FROM = 48, 208
"""Noise of a codec and pictures of limited range (16 to 235) stay outside of these levels."""

_EDGE_PX = 8
"""A macroblock's half: the farthest that a codec smears an edge."""

_COLOUR_DISTANCE = 20
"""Levels from gray; a gray picture stays within 2 through JPEG and through 4:2:0."""

_OPAQUE_FROM = 250
_FLAT_RANGE = 10
_FEW_LEVELS = 8
_LABEL_SHARE, _FILM_SHARE, _SOFT_SHARE = 0.05, 0.5, 0.1
"""Of the pixels that are not black: flat gray and any gray from which a source is refused, and gray to be noted."""


MASK_COLUMN = "mask_uri"

MOST_COVERED = 0.95
"""Share of the picture, over the masked frames, above which a removal leaves nothing to fill the mask from."""


@dataclass(slots=True, kw_only=True)
class Coverage:
    """The masked frames so far, and the sum of the shares of the picture that they mask."""

    masked_frames: int = 0
    masked_share: float = 0.0

    @property
    def mean_share(self) -> float:
        """The mean share of the picture that is masked, over the masked frames."""
        return self.masked_share / self.masked_frames if self.masked_frames else 0.0

    def add(self, mask: FrameMask, size: Size) -> None:
        """Add the mask of a frame of `size`."""
        self.masked_frames += 1
        self.masked_share += np.count_nonzero(mask.bits) / (size.width * size.height)

    def __str__(self) -> str:
        return f"masks {self.mean_share:.0%} of the picture over {self.masked_frames:,} masked frames"


@dataclass(slots=True, kw_only=True)
class MaskLevels:
    """The levels of a mask source's pictures so far, and the coverage of its masks.

    `column` names the source in messages. `softness` tells how much of a source that was read to its end is gray, None
    if little is.
    """

    column: str = MASK_COLUMN
    softness: str | None = None
    brightest: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    _white: int = 0
    _gray: int = 0
    _flat: int = 0
    _levels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    _first_flat: str | None = None

    def gray_of(self, frame: Frame) -> Gray:
        """Return the brightness (H, W) of a frame of a mask film, and check the frame.

        Raises:
            ClipError: `mask_transparent`, `mask_coloured`.
        """
        place = f"frame {frame.index}"
        alpha = frame.least_alpha()
        if alpha < _OPAQUE_FROM:
            raise ClipError(
                "mask_transparent", self.named(f"{place} is partly transparent (alpha {alpha} of 255); {_EXPECTED}")
            )
        if frame.is_coloured(_COLOUR_DISTANCE):
            raise self._coloured(frame.rgb(), place)
        gray = frame.gray()
        self.see(gray, place)
        return gray

    def see_rgb(self, rgb: npt.NDArray[np.uint8], name: str) -> None:
        """Check that an RGB picture (H, W, 3) has no colour.

        Raises:
            ClipError: `mask_coloured`.
        """
        if int((rgb.max(axis=2) - rgb.min(axis=2)).max(initial=0)) > _COLOUR_DISTANCE:
            raise self._coloured(rgb, name)

    def see(self, gray: Gray, place: str) -> None:
        """Count the levels of the next picture."""
        self.brightest = max(self.brightest, int(gray.max(initial=0)))
        counts = _count(gray)
        self._white += counts.white
        self._gray += counts.gray
        self._flat += counts.flat
        if counts.levels is not None:
            self._levels += counts.levels
        if counts.flat and self._first_flat is None:
            self._first_flat = place

    def finish(self) -> None:
        """Judge the levels of all pictures, and describe a soft mask.

        Raises:
            ClipError: `mask_too_dark`, `mask_levels`.
        """
        if 0 < self.brightest <= THRESHOLD:
            raise self.too_dark("its largest value", self.brightest)
        total = self._white + self._gray
        share = self._gray / total if total else 0.0
        if share <= _SOFT_SHARE and self._flat <= _LABEL_SHARE * total:
            return
        seen = f"{share:.0%} of the pixels that are not black have levels between black and white"
        if share > _FILM_SHARE or self._flat > _LABEL_SHARE * total:
            first = f", first on {self._first_flat}" if self._first_flat else ""
            level = f", most often {int(self._levels.argmax())}{first}"
            raise ClipError("mask_levels", self.named(f"{seen}{level}; {_EXPECTED}: one mask for all objects, no film"))
        self.softness = f"{seen}; a level above {THRESHOLD} counts as white"

    def too_dark(self, what: str, brightest: int) -> ClipError:
        """Make the error of a source whose `brightest` level masks nothing."""
        return ClipError(
            "mask_too_dark", self.named(f"{what} is {brightest} of 255, which masks nothing; write 0 and 255")
        )

    def named(self, reason: str) -> str:
        """Put the column before a reason."""
        return f"{self.column}: {reason}"

    def _coloured(self, rgb: npt.NDArray[np.uint8], place: str) -> ClipError:
        """Make the error of a picture (H, W, 3) with colours, which shows the strongest of them."""
        pixels = rgb.reshape(-1, 3)
        red, green, blue = pixels[int((pixels.max(axis=1) - pixels.min(axis=1)).argmax())].tolist()
        colour = f"such as red {red}, green {green}, blue {blue}"
        return ClipError("mask_coloured", self.named(f"{place} has colours, {colour}; {_EXPECTED}"))


_EXPECTED = "expected black (0) for keep and white (255) for replace"


@dataclass(frozen=True, slots=True)
class _Counts:
    """Pixels of one picture: white ones, gray ones that are no edge, and among the gray those of a flat area.

    `levels` is the histogram of the gray pixels.
    """

    white: int
    gray: int = 0
    flat: int = 0
    levels: npt.NDArray[np.int64] | None = None


def has_interior(bits: npt.NDArray[np.bool_]) -> bool:
    """Return whether a (H, W) mask is anywhere 3 pixels thick both ways, which the edge of a mask is not."""
    return bool(cv2.erode(bits.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).any())


def _count(gray: Gray) -> _Counts:
    histogram = np.bincount(gray.ravel(), minlength=256)
    white = int(histogram[_WHITE_FROM:].sum())
    if int(histogram[_BLACK_BELOW:_WHITE_FROM].sum()):
        between = (gray >= _BLACK_BELOW) & (gray < _WHITE_FROM)
        return _count_gray(gray, between, white)
    return _count_labels(gray, histogram, white)


def _count_gray(gray: Gray, between: npt.NDArray[np.bool_], white: int) -> _Counts:
    """Count the pixels of `between` that are no edge; only the part of the picture round them is looked at."""
    rows, columns = np.flatnonzero(between.any(axis=1)), np.flatnonzero(between.any(axis=0))
    reach = 2 * _EDGE_PX
    top, left = max(0, int(rows[0]) - reach), max(0, int(columns[0]) - reach)
    part = np.s_[top : int(rows[-1]) + reach + 1, left : int(columns[-1]) + reach + 1]
    cut = gray[part]
    window = np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8)
    by_black = cv2.dilate((cut < _BLACK_BELOW).astype(np.uint8), window)
    by_white = cv2.dilate((cut >= _WHITE_FROM).astype(np.uint8), window)
    far = between[part] & ((by_black == 0) | (by_white == 0))
    small = np.ones((5, 5), np.uint8)
    flat = far & (cv2.dilate(cut, small) - cv2.erode(cut, small) <= _FLAT_RANGE)
    num_far = int(np.count_nonzero(far))
    levels = np.bincount(cut[far], minlength=256).astype(np.int64) if num_far else None
    return _Counts(white, num_far, int(np.count_nonzero(flat)), levels)


def _count_labels(gray: Gray, histogram: npt.NDArray[np.int64], white: int) -> _Counts:
    """Count the labels 1, 2, ... that a picture of few levels has beside a white border between its objects.

    Noise of a codec has more levels.
    """
    levels = np.flatnonzero(histogram)
    labels = levels[(levels > 0) & (levels < _BLACK_BELOW)]
    if not (white and histogram[0] and labels.size and levels.size <= _FEW_LEVELS):
        return _Counts(white)
    areas = np.zeros(256, np.int64)
    areas[labels] = histogram[labels]
    area = int(areas.sum())
    if area <= white or not has_interior((gray > 0) & (gray < _BLACK_BELOW)):
        return _Counts(white)
    return _Counts(white, area, area, areas)
