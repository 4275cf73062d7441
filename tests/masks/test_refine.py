from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Dilation
from vace_batch.masks.refine import at_least_token, dilate, feather_alpha, refine, shape_mask, split_parts, subtract
from vace_batch.masks.store import FrameMask, box_mask, make_mask, merge_masks
from vace_batch.vace.encode import latent_mask

SIZE = Size(90, 70)

sparse_frames = hnp.arrays(bool, (70, 90), elements=st.just(False), fill=st.just(False)).flatmap(
    lambda empty: st.lists(st.tuples(st.integers(0, 69), st.integers(0, 89)), min_size=1, max_size=12).map(
        lambda points: _with(empty, points)
    )
)


def _with(empty: np.ndarray, points: list[tuple[int, int]]) -> np.ndarray:
    bits = empty.copy()
    for y, x in points:
        bits[y : y + 1 + x % 5, x : x + 1 + y % 7] = True
    return bits


def disk(cx: float, cy: float, radius: float, size: Size = SIZE) -> FrameMask:
    y, x = np.mgrid[: size.height, : size.width]
    mask = make_mask(0, (x - cx) ** 2 + (y - cy) ** 2 <= radius**2)
    assert mask is not None
    return mask


@given(sparse_frames, st.sampled_from([0.5, 1, 2.5, 6, 17]))
def test_dilation_is_every_pixel_within_the_radius_and_no_other(bits: np.ndarray, radius: float) -> None:
    mask = make_mask(0, bits)
    assert mask is not None
    expected = ndimage.distance_transform_edt(~bits) <= radius
    assert np.array_equal(dilate(mask, SIZE, Dilation(px=radius)).full(SIZE), expected)


def test_dilation_in_percent_is_of_the_objects_longer_side() -> None:
    grown = dilate(box_mask(0, Box(30, 30, 20, 10)), SIZE, Dilation(percent=25))
    assert grown.box == Box(25, 25, 30, 20)
    assert dilate(box_mask(0, Box(30, 30, 20, 10)), SIZE, Dilation(percent=25, px=8)).box == Box(22, 22, 36, 26)


def test_no_dilation_is_the_same_mask() -> None:
    mask = disk(40, 30, 9)
    assert dilate(mask, SIZE, Dilation(px=0)) == mask


@pytest.mark.parametrize("dilation", [Dilation(px=-1.0), Dilation(px=float("nan")), Dilation(percent=float("inf"))])
def test_bad_dilation(dilation: Dilation) -> None:
    with pytest.raises(ClipError) as error:
        dilate(disk(40, 30, 9), SIZE, dilation)
    assert error.value.code == "bad_dilation"


@given(sparse_frames, st.sampled_from([2, 5, 16]))
def test_every_pixel_lies_in_a_square_of_at_least_a_token(bits: np.ndarray, min_px: int) -> None:
    mask = make_mask(0, bits)
    assert mask is not None
    full = at_least_token(mask, SIZE, min_px).full(SIZE)
    opened = np.zeros_like(full)
    for y, x in np.argwhere(np.lib.stride_tricks.sliding_window_view(full, (min_px, min_px)).all(axis=(2, 3))):
        opened[y : y + min_px, x : x + min_px] = True
    assert np.array_equal(opened, full)
    assert full[bits].all()


def test_a_wire_grows_to_a_token_about_its_middle_and_the_thick_part_stays() -> None:
    bits = np.zeros((70, 90), bool)
    bits[30:33, 10:80] = True
    bits[20:50, 40:60] = True
    mask = make_mask(0, bits)
    assert mask is not None
    full = at_least_token(mask, SIZE, 16).full(SIZE)
    assert np.flatnonzero(full[:, 15]).tolist() == list(range(23, 39))
    assert np.array_equal(full[:, 45:55], bits[:, 45:55])


def test_a_round_thick_object_hardly_changes() -> None:
    mask = disk(45, 35, 25)
    grown = at_least_token(mask, SIZE, 16)
    assert grown.bits.sum() - mask.bits.sum() < 0.04 * mask.bits.sum()
    assert dilate(mask, SIZE, Dilation(px=1.5)).within(grown.box)[grown.bits].all()


@pytest.mark.parametrize("box", [Box(0, 0, 2, 70), Box(88, 10, 2, 3), Box(0, 69, 1, 1)])
def test_at_the_frames_edge_the_mask_grows_inwards(box: Box) -> None:
    grown = at_least_token(box_mask(0, box), SIZE, 16)
    assert grown.box.clip(SIZE) == grown.box
    assert grown.box.width == 16 and grown.box.height >= 16 and grown.bits.all()


def test_a_frame_narrower_than_a_token_is_filled_across() -> None:
    assert at_least_token(box_mask(0, Box(3, 5, 1, 1)), Size(8, 40), 16).box == Box(0, 0, 8, 16)


def test_shapes_are_of_each_part() -> None:
    first = make_mask(0, np.eye(10, dtype=bool) | np.eye(10, dtype=bool)[::-1], (5, 5))
    assert first is not None
    both = merge_masks([first, box_mask(0, Box(60, 40, 8, 8))])
    assert both is not None
    assert shape_mask(both, "mask") is both
    boxes = shape_mask(both, "box").full(SIZE)
    assert boxes.sum() == 10 * 10 + 8 * 8 and boxes[5:15, 5:15].all() and boxes[40:48, 60:68].all()
    hull = shape_mask(disk(40, 30, 20), "hull")
    assert hull.bits[disk(40, 30, 20).bits].all()
    with pytest.raises(ClipError) as error:
        shape_mask(both, "oval")
    assert error.value.code == "unknown_mask_shape"


def test_a_hull_is_convex_and_holds_the_part() -> None:
    bits = np.zeros((40, 40), bool)
    bits[5:35, 5:10] = bits[30:35, 5:35] = True
    mask = make_mask(0, bits)
    assert mask is not None
    hull = shape_mask(mask, "hull").full(Size(40, 40))
    assert hull[bits].all() and hull[28, 12] and not hull[8, 30]


def test_split_parts_are_the_connected_ones() -> None:
    bits = np.zeros((20, 20), bool)
    bits[1, 1] = bits[2, 2] = bits[10:14, 10:14] = True
    mask = make_mask(0, bits, (3, 4))
    assert mask is not None
    parts = split_parts(mask)
    assert [part.box for part in parts] == [Box(4, 5, 2, 2), Box(13, 14, 4, 4)]
    assert merge_masks(parts) == mask


def test_protected_pixels_never_stay_in_the_mask() -> None:
    mask, guard = disk(40, 30, 12), disk(50, 30, 8)
    left = subtract(mask, guard)
    assert left is not None
    assert np.array_equal(left.full(SIZE), mask.full(SIZE) & ~guard.full(SIZE))
    assert subtract(guard, box_mask(0, Box(30, 10, 50, 50))) is None
    assert subtract(mask, disk(80, 60, 3)) is mask
    assert subtract(mask, None) is mask and subtract(None, guard) is None


def test_objects_are_dilated_by_their_own_size() -> None:
    large, small = box_mask(0, Box(10, 20, 40, 20)), box_mask(0, Box(70, 20, 10, 10))
    mask = refine([large, small], SIZE, dilation=Dilation(percent=10), min_px=1)
    assert mask is not None
    assert [part.box for part in split_parts(mask)] == [Box(6, 16, 48, 28), Box(69, 19, 12, 12)]
    assert refine([], SIZE) is None


def test_default_dilation_is_six_pixels() -> None:
    mask = refine([box_mask(0, Box(30, 30, 20, 20))], SIZE)
    assert mask is not None and mask.box == Box(24, 24, 32, 32)


def test_feather_falls_from_one_to_exactly_nothing() -> None:
    bits = disk(45, 35, 12).full(SIZE)
    alpha = feather_alpha(bits, 8.0)
    distance = ndimage.distance_transform_edt(~bits)
    assert alpha.dtype == np.float32
    assert (alpha[bits] == 1).all() and (alpha[distance >= 8] == 0).all()
    ring = (distance > 0) & (distance < 7.9)
    assert ((alpha[ring] > 0) & (alpha[ring] < 1)).all()
    assert alpha[35, 45 + 12 + 4] == 0.5  # an S, flat at both ends
    order = np.argsort(distance[ring])
    assert (np.diff(alpha[ring][order]) <= 1e-6).all()


def test_feather_of_nothing_and_of_no_width() -> None:
    bits = disk(45, 35, 12).full(SIZE)
    assert np.array_equal(feather_alpha(bits, 0), bits.astype(np.float32))
    assert not feather_alpha(np.zeros((4, 4), bool), 3).any()


def test_a_token_of_dilation_is_sixteen_pixels() -> None:
    mask = box_mask(0, Box(40, 30, 10, 10))
    assert dilate(mask, SIZE, Dilation(tokens=1)) == dilate(mask, SIZE, Dilation(px=16))


def test_holes_are_filled_only_when_asked() -> None:
    ring = disk(45, 35, 20).full(SIZE) & ~disk(45, 35, 8).full(SIZE)
    mask = make_mask(0, ring)
    assert mask is not None
    assert np.array_equal(shape_mask(mask, "mask").full(SIZE), ring)
    filled = shape_mask(mask, "filled").full(SIZE)
    assert np.array_equal(filled, disk(45, 35, 20).full(SIZE))


@pytest.mark.parametrize("slope", [0.0, 0.35, 1.0, -2.0])
def test_a_wire_of_three_pixels_reaches_the_encoded_mask_channels(slope: float) -> None:
    """A swaying wire: all its pixels on a group's frames are in the group's 64 channels; no token is thin."""
    size, frames = Size(128, 96), 9
    rows, columns = np.mgrid[: size.height, : size.width].astype(float)
    wires = []
    for index in range(frames):
        across = (rows - 48 - slope * (columns - 64) - 5 * np.sin(index)) / np.hypot(1, slope)
        wires.append(np.abs(across) <= 1.5)
    made = []
    for index, wire in enumerate(wires):
        mask = make_mask(index, wire)
        assert mask is not None
        refined = refine([mask], size)
        assert refined is not None
        made.append(refined.full(size))
    channels = latent_mask(torch.from_numpy(np.stack(made)), "max4")
    assert channels.shape == (64, 3, 12, 16)
    pixels = channels.reshape(8, 8, 3, 12, 16).permute(2, 3, 0, 4, 1).reshape(3, 96, 128).bool().numpy()
    for latent, group in enumerate((range(1), range(1, 5), range(5, 9))):
        true = np.any([wires[index] for index in group], axis=0)
        assert (pixels[latent] & true).sum() == true.sum()
        tokens = pixels[latent].reshape(6, 16, 8, 16).sum(axis=(1, 3))
        crossed = true.reshape(6, 16, 8, 16).sum(axis=(1, 3)) >= 16
        assert crossed.any() and tokens[crossed].min() >= 64
