"""Smooth an object's masks over its life: gaps filled by its shape, jitter outvoted by its neighbours, no flicker.

Arrays are bool (h,w) in a box of display pixels.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.geometry import Box, Size, union_of
from vace_batch.manifest.job import Dilation
from vace_batch.masks.refine import dilate, subtract
from vace_batch.masks.store import Bits, FrameMask, box_mask, make_mask, merge_masks
from vace_batch.masks.tracking.objects import MOST_GAP_FRAMES, XY, Sighting

# Frames on each side that the path is fitted to, and that vote on the mask's pixels.
_FIT_FRAMES = 4
_VOTE_FRAMES = 2
_LEAST_VOTES = 3
# Extrapolation from one side: over so many frames, by fits of (degree, number of sightings).
_LED_FRAMES = 3
_LED_FITS = ((1, 2), (1, 3), (2, 5))
# A detector misses an object's first and last frames most.
_GRACE_FRAMES = 2
_SAME_PX = 0.5
# A sighting that is off its neighbours' path by this share of their longer side may be another object.
_STRAY = 0.4
# A box that jumps by n px in x and y is off by 1.4 n; the usual dilation makes up for n.
_SHAKE, _MOST_SHAKE_PX = 0.67, 2.0
# Factor of the growth on frames without a sighting, and within so many px of the frame's edge.
_UNSEEN, _EDGE_PX = 2, 8


def interpolate_mask(before: FrameMask, after: FrameMask, index: int, share: float, size: Size) -> FrameMask | None:
    """Interpolate between two masks at `share` of the way: boxes linearly, outlines by their signed distances."""
    pairs = zip(_edges(before.box), _edges(after.box), strict=True)
    edges = [(1 - share) * one + share * other for one, other in pairs]
    left = math.floor(edges[0])
    top = math.floor(edges[1])
    box = Box(left, top, math.ceil(edges[2]) - left, math.ceil(edges[3]) - top)
    blend = (1 - share) * _signed_distances(before.bits, box.size) + share * _signed_distances(after.bits, box.size)
    return _clip(index, blend > 0, box, size)


def shift_mask(mask: FrameMask, index: int, dx: int, dy: int, size: Size) -> FrameMask | None:
    """Shift a mask and clip it to the frame; None if it leaves the frame."""
    return _clip(index, mask.bits, mask.box.shift(dx, dy), size)


class SmoothedObject:
    """The mask of one object by frame; `sightings` by rising frame, no gap longer than `MOST_GAP_FRAMES`.

    No seen pixel is removed; pixels that most neighbouring frames show, moved along the object's path, are added.
    """

    def __init__(self, sightings: tuple[Sighting, ...], shot: tuple[int, int], size: Size) -> None:
        self._sightings = sightings
        self._size = size
        self._indices = [one.index for one in sightings]
        self.start = max(self._indices[0] - _GRACE_FRAMES, shot[0])
        self.stop = min(self._indices[-1] + _GRACE_FRAMES + 1, shot[1])
        self._unpacked: OrderedDict[int, FrameMask] = OrderedDict()
        small = min(size.width, size.height) <= 2 * _EDGE_PX
        self._inside = None if small else Box(0, 0, size.width, size.height).pad(-_EDGE_PX)

    @cached_property
    def _centres(self) -> XY:
        return np.array([one.centre for one in self._sightings])

    @cached_property
    def _shake(self) -> float:
        """The growth in px that makes up for the jitter of the detector's boxes around the object's path."""
        pairs = [(self._centre_at(index), centre) for index, centre in zip(self._indices, self._centres, strict=True)]
        jumps = [np.hypot(*(on_path - centre)) for on_path, centre in pairs if on_path is not None]
        return min(float(np.rint(_SHAKE * np.median(jumps))), _MOST_SHAKE_PX) if jumps else 0.0

    def at(self, index: int) -> FrameMask | None:
        """Return the mask on frame `index`; None outside the object's life or the frame."""
        if not self.start <= index < self.stop:
            return None
        place = bisect_left(self._indices, index)
        seen = place < len(self._indices) and self._indices[place] == index
        mask = self._mask_seen(place) if seen else self._mask_unseen(place, index)
        return mask and self._with_room(mask, self._shake if seen else _UNSEEN * self._shake)

    def _with_room(self, mask: FrameMask, room: float) -> FrameMask | None:
        """Grow the mask by `room` px, and by twice as much at the frame's edge, which cuts shaking boxes."""
        if not room:
            return mask
        inside = mask.box.intersect(self._inside) if self._inside else None
        cut = subtract(mask, None if inside is None else box_mask(mask.index, inside))
        rooms = ((mask, room), (cut, _UNSEEN * room))
        return merge_masks([dilate(part, self._size, Dilation(px=px)) for part, px in rooms if part is not None])

    def _mask_seen(self, place: int) -> FrameMask | None:
        """Return the mask on a frame with a sighting, joined with the votes of its neighbours."""
        parts = (self._mask(place), self._instead_of_stray(place), self._voted(self._indices[place]))
        return merge_masks([mask for mask in parts if mask is not None])

    def _mask_unseen(self, place: int, index: int) -> FrameMask | None:
        """Return the mask on a frame without a sighting: interpolated in a gap, extrapolated at the ends."""
        if not 0 < place < len(self._indices):
            return self._extrapolated(0 if place == 0 else len(self._indices) - 1, index)
        parts = (self._filled(place, index), self._voted(index))
        return merge_masks([mask for mask in parts if mask is not None])

    def _mask(self, place: int) -> FrameMask:
        """Unpack the mask of the sighting at `place`; the last few stay unpacked."""
        if place not in self._unpacked:
            self._unpacked[place] = self._sightings[place].mask.unpack()
            while len(self._unpacked) > 4 * _VOTE_FRAMES + 4:
                self._unpacked.popitem(last=False)
        return self._unpacked[place]

    def _instead_of_stray(self, place: int) -> FrameMask | None:
        """Interpolate the neighbours of a sighting far off their path: it may show another object."""
        if not 0 < place < len(self._indices) - 1:
            return None
        first, index, last = self._indices[place - 1 : place + 2]
        share = (index - first) / (last - first)
        middle = (1 - share) * self._centres[place - 1] + share * self._centres[place + 1]
        boxes = self._sightings[place - 1].box, self._sightings[place + 1].box
        side = max(max(box.width, box.height) for box in boxes)
        if last - first > MOST_GAP_FRAMES + 1 or np.hypot(*(middle - self._centres[place])) <= _STRAY * side:
            return None
        return interpolate_mask(self._mask(place - 1), self._mask(place + 1), index, share, self._size)

    def _filled(self, place: int, index: int) -> FrameMask | None:
        """Fill a gap: interpolate its ends, and join both ends moved to all places where the object may be."""
        first, last = self._indices[place - 1], self._indices[place]
        assert last - first <= MOST_GAP_FRAMES + 1, "longer gaps end an appearance"
        share = (index - first) / (last - first)
        parts = [interpolate_mask(self._mask(place - 1), self._mask(place), index, share, self._size)]
        # A gap may hide a turn, or the edge may cut the object: join both ends on the path, and as extrapolated.
        if (centre := self._centre_at(index)) is not None:
            parts += [self._placed(neighbour, centre, index) for neighbour in (place - 1, place)]
        straight = (1 - share) * self._centres[place - 1] + share * self._centres[place]
        for neighbour, side in ((place - 1, -1), (place, 1)):
            for led in self._led_centres(neighbour, index, side):
                parts += [self._placed(neighbour, led_centre, index) for led_centre in (led, (led + straight) / 2)]
        return merge_masks([part for part in parts if part is not None])

    def _extrapolated(self, place: int, index: int) -> FrameMask | None:
        """Extrapolate the object's motion before its first and after its last sighting."""
        on_path = self._centre_at(index)
        centres = [] if on_path is None else [on_path]
        centres += self._led_centres(place, index, 1 if index < self._indices[place] else -1)
        parts = [self._placed(place, centre, index) for centre in (*centres, self._centres[place])]
        return merge_masks([part for part in parts if part is not None])

    def _placed(self, place: int, centre: XY, index: int) -> FrameMask | None:
        """Move the mask of the sighting at `place` to the centre `centre`."""
        dx, dy = np.rint(centre - self._centres[place]).astype(int)
        return shift_mask(self._mask(place), index, int(dx), int(dy), self._size)

    def _led_centres(self, place: int, index: int, side: int) -> list[XY]:
        """Extrapolate the centre on frame `index` from the sightings on one side of `place` alone (`side` -1 before, 1
        after).

        Returns centres by even and by evenly changing speed.
        """
        if abs(self._indices[place] - index) > _LED_FRAMES:
            return []
        centres = []
        for degree, count in _LED_FITS:
            places = np.arange(place, place + side * count, side)
            places = places[(places >= 0) & (places < len(self._indices))]
            times = np.array(self._indices)[places] - index
            if len(places) == count and np.ptp(times) < 2 * count:
                powers = np.vander(times.astype(np.float64), degree + 1)
                centres.append(np.linalg.lstsq(powers, self._centres[places], rcond=None)[0][-1])
        return centres

    def _centre_at(self, index: int) -> XY | None:
        """Return the object's centre on frame `index` by a smooth path through its sightings; None with too few."""
        first = bisect_left(self._indices, index - _FIT_FRAMES)
        last = bisect_left(self._indices, index + _FIT_FRAMES + 1)
        if last - first < _LEAST_VOTES:
            return None
        times = np.array(self._indices[first:last], np.float64) - index
        outside = index < self._indices[0] or index > self._indices[-1]
        degree = 2 if last - first > 2 * _LEAST_VOTES and not outside else 1
        powers = np.vander(times, degree + 1)
        return np.asarray(np.linalg.lstsq(powers, self._centres[first:last], rcond=None)[0][-1], np.float64)

    def _voted(self, index: int) -> FrameMask | None:
        """Vote on each pixel by the neighbouring sightings, moved to frame `index`; None if all are equal."""
        first = bisect_left(self._indices, index - _VOTE_FRAMES)
        last = bisect_left(self._indices, index + _VOTE_FRAMES + 1)
        if last - first < _LEAST_VOTES or (centre := self._centre_at(index)) is None:
            return None
        steps = centre - self._centres[first:last]
        if np.abs(steps).max() < _SAME_PX and self._are_equal(first, last):
            return None
        votes = [
            (self._mask(place), np.rint(step).astype(int))
            for place, step in zip(range(first, last), steps, strict=True)
        ]
        whole = union_of(mask.box.shift(int(dx), int(dy)) for mask, (dx, dy) in votes)
        assert whole is not None
        count = np.zeros((whole.height, whole.width), np.uint8)
        for mask, (dx, dy) in votes:
            count[mask.box.shift(int(dx) - whole.x, int(dy) - whole.y).slices] += mask.bits
        return _clip(index, count * 2 > len(votes), whole, self._size)

    def _are_equal(self, first: int, last: int) -> bool:
        """Return whether sightings have equal masks in boxes of equal size."""
        sightings = self._sightings[first:last]
        return len({one.box.size for one in sightings}) == 1 and len({one.mask.data for one in sightings}) == 1


def _clip(index: int, bits: Bits, box: Box, size: Size) -> FrameMask | None:
    """Make a mask of `bits` in `box`, clipped to the frame."""
    inside = box.clip(size)
    if inside is None:
        return None
    return make_mask(index, bits[inside.shift(-box.x, -box.y).slices], (inside.x, inside.y))


def _edges(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.right, box.bottom


def _signed_distances(bits: Bits, size: Size) -> npt.NDArray[np.float32]:
    """Return the distance to the outline of `bits` stretched to `size`, positive inside, in px."""
    stretched = bits.view(np.uint8)
    if stretched.shape != (size.height, size.width):
        stretched = np.asarray(
            cv2.resize(stretched * np.uint8(255), (size.width, size.height), interpolation=cv2.INTER_LINEAR) > 127,
            np.uint8,
        )
    padded = np.pad(stretched, 1)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(np.asarray(1 - padded, np.uint8), cv2.DIST_L2, 3)
    return np.asarray((inside - outside)[1:-1, 1:-1], np.float32)
