"""Frame: an RGB view of a box is cut from the whole frame, and an edit changes only its samples, in any layout."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.media_files import Media, make, picture
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.video.frame import Frame
from vace_batch.video.orientation import Orientation
from vace_batch.video.planes import is_editable
from vace_batch.video.reader import read_frames

# Of each plane: luma pixels a sample covers across and down, interleaved channels.
LAYOUTS = {
    "yuv420p": [(1, 1, 1), (2, 2, 1), (2, 2, 1)],
    "yuvj420p": [(1, 1, 1), (2, 2, 1), (2, 2, 1)],
    "yuv420p10le": [(1, 1, 1), (2, 2, 1), (2, 2, 1)],
    "yuv422p": [(1, 1, 1), (2, 1, 1), (2, 1, 1)],
    "yuv422p10le": [(1, 1, 1), (2, 1, 1), (2, 1, 1)],
    "yuv444p": [(1, 1, 1)] * 3,
    "yuv444p10le": [(1, 1, 1)] * 3,
    "nv12": [(1, 1, 1), (2, 2, 2)],
    "gray": [(1, 1, 1)],
    "gbrp": [(1, 1, 1)] * 3,
    "bgr0": [(1, 1, 4)],
}
FORMATS = sorted(LAYOUTS)
ORIENTATIONS = [Orientation(turns=turns, mirrored=mirrored) for turns in range(4) for mirrored in (False, True)]


def native(pix_fmt: str, width: int = 53, height: int = 41, seed: int = 0) -> av.VideoFrame:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=pix_fmt, dst_color_range=1, dst_colorspace=1)
    frame.colorspace = 1
    return frame


def frame_of(pix_fmt: str, orientation: Orientation | None = None, **size: int) -> Frame:
    return Frame(native(pix_fmt, **size), index=0, pts=0, orientation=orientation or Orientation())


def planes(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """Copies of the planes as (H, W, channels), padding cut off."""
    deep = 2 if max(component.bits for component in frame.format.components) > 8 else 1
    result = []
    for plane, (_, _, channels) in zip(frame.planes, LAYOUTS[frame.format.name], strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        samples = rows[:, : plane.width * channels * deep].copy().view(f"<u{deep}")
        result.append(samples.reshape(plane.height, plane.width, channels))
    return result


def touched_samples(covered: NDArray[np.bool_], across: int, down: int) -> NDArray[np.bool_]:
    """Mark each sample of a plane that covers at least one masked pixel."""
    by_row = np.logical_or.reduceat(covered, np.arange(0, covered.shape[0], down), axis=0)
    return np.logical_or.reduceat(by_row, np.arange(0, covered.shape[1], across), axis=1)


@given(data=st.data())
@settings(max_examples=40)
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_patch_is_a_cut_of_the_whole_frame(pix_fmt: str, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    frame = frame_of(pix_fmt, data.draw(st.sampled_from(ORIENTATIONS)), width=width, height=height)
    x, y = data.draw(st.integers(0, frame.size.width - 1)), data.draw(st.integers(0, frame.size.height - 1))
    box = Box(x, y, data.draw(st.integers(1, frame.size.width - x)), data.draw(st.integers(1, frame.size.height - y)))
    np.testing.assert_array_equal(frame.rgb(box), frame.rgb()[box.slices])


@given(data=st.data())
@settings(max_examples=40)
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_samples_of_alpha_zero_keep_their_bits(pix_fmt: str, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    orientation = data.draw(st.sampled_from(ORIENTATIONS))
    frame = frame_of(pix_fmt, orientation, width=width, height=height)
    size = frame.size
    x, y = data.draw(st.integers(0, size.width - 1)), data.draw(st.integers(0, size.height - 1))
    box = Box(x, y, data.draw(st.integers(1, size.width - x)), data.draw(st.integers(1, size.height - y)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    alpha = random.choice(np.float32([0, 0.3, 1]), (box.height, box.width), p=[0.7, 0.1, 0.2])
    before = planes(frame.native)
    frame.paste(box, random.integers(0, 256, (box.height, box.width, 3), dtype=np.uint8), alpha)
    covered = np.zeros((size.height, size.width), bool)
    covered[box.slices] = alpha > 0
    stored = orientation.stored(covered)
    for (across, down, _), old, new in zip(LAYOUTS[pix_fmt], before, planes(frame.native), strict=True):
        kept = ~touched_samples(stored, across, down)
        np.testing.assert_array_equal(old[kept], new[kept])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuvj420p", "gbrp", "nv12"])
def test_pasted_colour_is_seen_where_it_was_pasted(pix_fmt: str, orientation: Orientation) -> None:
    frame = frame_of(pix_fmt, orientation, width=64, height=48)
    box = Box(9, 11, 30, 26)
    rgb = np.empty((26, 30, 3), np.uint8)
    rgb[...] = (200, 60, 30)
    frame.paste(box, rgb, np.ones((26, 30), np.float32))
    inner = frame.rgb(Box(13, 15, 22, 18)).astype(int)
    assert np.abs(inner - (200, 60, 30)).max() <= 2


def test_deep_paste_keeps_ten_bits() -> None:
    frame = frame_of("yuv444p10le", width=32, height=32)
    ramp = np.linspace(20000, 24000, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint16)
    frame.paste(Box(0, 0, 32, 32), ramp, np.ones((32, 32), np.float32))
    assert np.abs(frame.rgb16().astype(int) - ramp).max() <= 128  # two of 1023 steps


def test_half_alpha_is_the_mean() -> None:
    frame = frame_of("gray", width=16, height=16)
    before = planes(frame.native)[0].astype(float)
    frame.paste(Box(0, 0, 16, 16), np.full((16, 16, 3), 100, np.uint8), np.full((16, 16), 0.5, np.float32))
    np.testing.assert_array_equal(planes(frame.native)[0], np.rint((before + 100) / 2))


def test_transparency_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    native_frame = av.VideoFrame.from_ndarray(pixels, "bgra")
    frame = Frame(native_frame, index=0, pts=0, orientation=Orientation())
    frame.paste(Box(0, 0, 8, 8), np.full((8, 8, 3), 7, np.uint8), np.ones((8, 8), np.float32))
    after = frame.native.to_ndarray()
    np.testing.assert_array_equal(after[:, :, 3], pixels[:, :, 3])
    assert (after[:, :, :3] == 7).all()


def test_colours_at_alpha_zero_are_not_read() -> None:
    one, other = frame_of("yuv420p"), frame_of("yuv420p")
    box, alpha = Box(8, 8, 20, 20), np.zeros((20, 20), np.float32)
    alpha[5:15, 5:15] = 1
    rgb = np.full((20, 20, 3), 90, np.uint8)
    garbage = np.where(alpha[:, :, None] > 0, rgb, (255, 0, 0)).astype(np.uint8)
    one.paste(box, rgb, alpha)
    other.paste(box, garbage, alpha)
    for left, right in zip(planes(one.native), planes(other.native), strict=True):
        np.testing.assert_array_equal(left, right)


def test_paste_does_not_reach_the_decoder(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Media(num_frames=8, options={"preset": "medium", "crf": "20"}))
    clean = [frame.rgb() for frame in read_frames(path)]
    box, black = Box(0, 0, 64, 48), np.zeros((48, 64, 3), np.uint8)
    for frame, expected in zip(read_frames(path), clean, strict=True):
        np.testing.assert_array_equal(frame.rgb(), expected)
        frame.paste(box, black, np.ones((48, 64), np.float32))


@pytest.mark.parametrize(
    ("tags", "pix_fmt", "height"),
    [
        ((1, 1, 1, 1), "yuv420p", 48),
        ((6, 6, 6, 1), "yuv420p", 48),
        ((9, 9, 16, 1), "yuv420p10le", 48),
        ((1, 1, 1, 2), "yuv420p", 48),
        ((2, 2, 2, 0), "yuv420p", 48),
        ((2, 2, 2, 0), "yuv420p", 592),
    ],
)
def test_colours_follow_the_tags(tmp_path: Path, tags: tuple[int, int, int, int], pix_fmt: str, height: int) -> None:
    media = Media(num_frames=1, tags=tags, pix_fmt=pix_fmt, height=height, options={"crf": "1"})
    path = make(tmp_path / "a.mp4", media)
    (frame,) = read_frames(path)
    difference = np.abs(frame.rgb().astype(int) - picture(media, 0)).mean()
    assert difference < 2.5  # a wrong matrix or range is worth 5 and more


def test_boxes_outside_and_wrong_shapes_are_refused() -> None:
    frame = frame_of("yuv420p")
    with pytest.raises(ValueError, match="inside the frame"):
        frame.rgb(Box(40, 0, 20, 10))
    with pytest.raises(ValueError, match="expected arrays of 4x4"):
        frame.paste(Box(0, 0, 4, 4), np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.float32))


def test_packed_yuv_is_refused_with_its_name() -> None:
    assert not is_editable("yuyv422") and not is_editable("pal8") and is_editable("yuva420p")
    frame = frame_of("yuyv422", width=32, height=32)
    with pytest.raises(ClipError, match="yuyv422"):
        frame.paste(Box(0, 0, 4, 4), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_inverts(orientation: Orientation) -> None:
    stored = np.arange(5 * 7).reshape(5, 7)
    shown = orientation.display(stored)
    np.testing.assert_array_equal(orientation.stored(shown), stored)
    size = orientation.display_size(Size(7, 5))
    assert shown.shape == (size.height, size.width)
    box = Box(1, 2, 3, 2)
    cut = stored[orientation.stored_box(box, size).slices]
    np.testing.assert_array_equal(orientation.display(cut), shown[box.slices])
