"""One decoded frame: RGB views of it and edits of its native planes.

Shape legend: H rows, W columns, C channels (RGB). "Stored" is the orientation of the coded picture, "display" the one a
player shows; everything public is in display orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size, align_down, align_up

Samples = NDArray[Any]
"""Pixels or native samples, uint8 or uint16."""

_T = TypeVar("_T", bound=np.generic)

SWS_FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""Without ACCURATE_RND swscale takes a shortcut that repeats chroma samples instead of interpolating them."""

SD_LINES = 576
"""Untagged video up to this many stored lines is BT.601, above BT.709, as players do."""

_MATRIX = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}

# Chroma filters reach two chroma samples to each side; 16 luma pixels hold that for every subsampling and keep the
# phase of a patch, so that it converts to the same bits as the whole frame.
_GRID_PX = 16

_ALPHA_FIRST = frozenset({"argb", "abgr"})
_FOUR_BYTE_RGB = frozenset({"rgb0", "bgr0", "0rgb", "0bgr"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How stored becomes display: `turns` quarter turns counter-clockwise, then mirrored left to right."""

    turns: int = 0
    mirrored: bool = False

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...] | None) -> Orientation:
        """From libav's 3x3 display matrix (row major, 16.16); angles that are no quarter turn count as upright."""
        if matrix is None:
            return cls()
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        mirrored = a * d - b * c < 0
        if mirrored:
            a, c = -a, -c
        if (a == 0) == (b == 0):
            return cls()
        turns = (0 if a > 0 else 2) if b == 0 else (3 if b > 0 else 1)
        return cls(turns=turns, mirrored=mirrored)

    def display(self, array: NDArray[_T]) -> NDArray[_T]:
        """A stored (H, W, ...) array as displayed; a view."""
        turned = np.rot90(array, self.turns)
        return turned[:, ::-1] if self.mirrored else turned

    def stored(self, array: NDArray[_T]) -> NDArray[_T]:
        """A displayed (H, W, ...) array as stored; a view. The inverse of `display`."""
        return np.rot90(array[:, ::-1] if self.mirrored else array, -self.turns)

    def display_size(self, stored: Size) -> Size:
        return Size(stored.height, stored.width) if self.turns % 2 else stored

    def stored_box(self, box: Box, display: Size) -> Box:
        """The stored rectangle that `box` of a frame of `display` size shows."""
        if self.mirrored:
            box = Box(display.width - box.right, box.y, box.width, box.height)
        size = display
        for _ in range(self.turns):
            box = Box(size.height - box.bottom, box.x, box.height, box.width)
            size = Size(size.height, size.width)
        return box


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Layout of one plane: `channels` interleaved samples, shifted right by `shift_x`, `shift_y` against luma."""

    index: int
    channels: int
    shift_x: int
    shift_y: int
    fixed_channel: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneLayout:
    """What edits of a pixel format need to know; `planes` leaves out a plane that only holds transparency."""

    dtype: np.dtype[Any]
    deep: bool
    planes: tuple[Plane, ...]


@lru_cache(maxsize=64)
def plane_layout(name: str) -> PlaneLayout | None:
    """The layout of pixel format `name`; None where samples are not addressable one by one (pal8, yuyv422)."""
    wide = 64
    pix_fmt = av.VideoFormat(name, wide, wide)
    bits = max(component.bits for component in pix_fmt.components)
    if pix_fmt.has_palette or pix_fmt.is_bit_stream or pix_fmt.is_bayer or not 8 <= bits <= 16 or "f32" in name:
        return None
    if min(component.bits for component in pix_fmt.components) < 8:
        return None
    dtype = np.dtype(np.uint8) if bits == 8 else np.dtype(">u2" if pix_fmt.is_big_endian else "<u2")
    planes = []
    for index in sorted({component.plane for component in pix_fmt.components}):
        members = [component for component in pix_fmt.components if component.plane == index]
        if len({component.width for component in members}) > 1:
            return None
        if all(component.is_alpha for component in members):
            continue
        channels = 4 if name in _FOUR_BYTE_RGB else len(members)
        alpha = any(component.is_alpha for component in members)
        planes.append(
            Plane(
                index=index,
                channels=channels,
                shift_x=(wide // members[0].width).bit_length() - 1,
                shift_y=(wide // members[0].height).bit_length() - 1,
                fixed_channel=(0 if name in _ALPHA_FIRST else channels - 1) if alpha else None,
            )
        )
    return PlaneLayout(dtype=dtype, deep=bits > 8, planes=tuple(planes))


def is_editable(pix_fmt: str) -> bool:
    """Whether `Frame.paste` can work on frames of this pixel format."""
    return plane_layout(pix_fmt) is not None


def plane_view(frame: av.VideoFrame, plane: Plane, dtype: np.dtype[Any]) -> Samples:
    """A writable (H, W, channels) view of one plane, row padding left out."""
    buffer = frame.planes[plane.index]
    rows: Samples = np.frombuffer(memoryview(buffer), np.uint8).reshape(buffer.height, abs(buffer.line_size))
    if buffer.line_size < 0:
        rows = rows[::-1]
    samples: Samples = rows.view(dtype)[:, : buffer.width * plane.channels]
    return samples.reshape(buffer.height, buffer.width, plane.channels)


def _shrink(alpha_HW: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Mean alpha of the luma pixels that each sample of `plane` covers: exactly 0 where all of them are 0."""
    if not plane.shift_x and not plane.shift_y:
        return alpha_HW
    step_x, step_y = 1 << plane.shift_x, 1 << plane.shift_y
    height, width = alpha_HW.shape
    blocks = alpha_HW.reshape(height // step_y, step_y, width // step_x, step_x)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


class Frame:
    """One source frame: `index` from 0, `pts` in the stream's time base, `size` in display orientation.

    Holds decoder memory: use it before asking for the next frame, do not collect frames.
    """

    __slots__ = ("_frame", "_orientation", "index", "pts", "size")

    def __init__(self, frame: av.VideoFrame, *, index: int, pts: int, orientation: Orientation) -> None:
        self._frame = frame
        self._orientation = orientation
        self.index = index
        self.pts = pts
        self.size = orientation.display_size(Size(frame.width, frame.height))

    @property
    def orientation(self) -> Orientation:
        return self._orientation

    @property
    def native(self) -> av.VideoFrame:
        """The libav frame, for the encoder."""
        return self._frame

    @property
    def bit_depth(self) -> int:
        """Bits a sample."""
        return int(self._frame.format.components[0].bits)

    def rgb(self, box: Box | None = None) -> NDArray[np.uint8]:
        """The pixels in `box` (default: all) as full-range RGB, (H, W, 3) uint8, contiguous.

        Raises:
            ValueError: `box` leaves the frame.
        """
        stored = self._stored_rgb(self._stored_box(box), deep=False)
        return np.ascontiguousarray(self._orientation.display(stored)).astype(np.uint8, copy=False)

    def small(self, size: Size) -> NDArray[np.uint8]:
        """All of the picture at `size` (display orientation), (H, W, 3) uint8 RGB: to look at, not to work on."""
        stored = size if self._orientation.turns % 2 == 0 else Size(size.height, size.width)
        shrunk = self._frame.reformat(
            width=stored.width, height=stored.height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        pixels = self._orientation.display(shrunk.to_ndarray())
        return np.ascontiguousarray(pixels).astype(np.uint8, copy=False)

    def rgb16(self, box: Box | None = None) -> NDArray[np.uint16]:
        """As `rgb`, scaled to 0..65535: keeps what a 10-bit source has.

        Raises:
            ValueError: `box` leaves the frame.
        """
        stored = self._stored_rgb(self._stored_box(box), deep=True)
        return np.ascontiguousarray(self._orientation.display(stored)).astype(np.uint16, copy=False)

    def gray(self) -> NDArray[np.uint8]:
        """The picture's brightness at full range, (H, W) uint8: of 8-bit gray video bit for bit."""
        name = self._frame.format.name
        layout = plane_layout(name)
        if layout is None or self._frame.format.is_rgb:
            return np.array(Image.fromarray(self.rgb()).convert("L"), dtype=np.uint8)
        luma = plane_view(self._frame, layout.planes[0], layout.dtype)[:, :, 0]
        bits = self._frame.format.components[0].bits
        full = name.startswith("gray") or self._range == ColorRange.JPEG
        # swscale is several levels off where it widens the range of luma alone.
        black, white = (0, (1 << bits) - 1) if full else (16 << (bits - 8), 235 << (bits - 8))
        levels = (luma.astype(np.float32) - black) * (255 / (white - black))
        shown = self._orientation.display(np.rint(levels).clip(0, 255).astype(np.uint8))
        return np.ascontiguousarray(shown)

    def paste(self, box: Box, rgb: Samples, alpha: NDArray[np.float32], kept: NDArray[np.bool_] | None = None) -> None:
        """Blend `rgb` (H, W, 3; uint8, or uint16 of 0..65535) into `box` by `alpha` (H, W; 0 keeps, 1 replaces).

        Works on the native planes of a private copy. A sample whose alpha is exactly 0 keeps its bits; the alpha of
        a chroma sample is the mean over the luma pixels it covers. Colours at pixels of alpha 0 are not read.
        Where `kept` (H, W) is set nothing changes, nor do chroma samples that cover such a pixel.

        Raises:
            ValueError: `box` leaves the frame, or the arrays do not have the box's size.
            ClipError: unsupported_pixel_format.
        """
        if rgb.shape != (box.height, box.width, 3) or alpha.shape != (box.height, box.width):
            raise ValueError(f"paste: expected arrays of {box.size}, got rgb {rgb.shape} and alpha {alpha.shape}")
        name = self._frame.format.name
        layout = plane_layout(name)
        if layout is None:
            raise ClipError("unsupported_pixel_format", f"pixel format {name} cannot be edited in place")
        inner = self._stored_box(box)
        area = self._aligned(inner)
        # The decoder may still predict from this picture; its own buffer must not change.
        self._frame.make_writable()

        inside = area.clip(Size(self._frame.width, self._frame.height))
        assert inside is not None
        alpha_HW = np.zeros((inside.height, inside.width), np.float32)
        alpha_HW[inner.shift(-area.x, -area.y).slices] = self._orientation.stored(alpha)
        kept_HW = np.zeros_like(alpha_HW)
        if kept is not None:
            kept_HW[inner.shift(-area.x, -area.y).slices] = self._orientation.stored(kept)
            alpha_HW[kept_HW > 0] = 0
        beyond = ((0, area.height - inside.height), (0, area.width - inside.width))
        alpha_HW, kept_HW = (np.pad(values, beyond, mode="edge") for values in (alpha_HW, kept_HW))
        patch = self._patch(area, inner, rgb, alpha_HW, deep=layout.deep)
        for plane in layout.planes:
            free = _shrink(kept_HW, plane) == 0
            self._blend(plane, layout, area, patch, _shrink(alpha_HW, plane) * free)

    def _blend(
        self, plane: Plane, layout: PlaneLayout, area: Box, patch: av.VideoFrame, alpha_HW: NDArray[np.float32]
    ) -> None:
        new = plane_view(patch, plane, layout.dtype)
        rows, columns = new.shape[:2]
        top, left = area.y >> plane.shift_y, area.x >> plane.shift_x
        target = plane_view(self._frame, plane, layout.dtype)[top : top + rows, left : left + columns]
        rows, columns = target.shape[:2]
        new, alpha_HW = new[:rows, :columns], alpha_HW[:rows, :columns]
        old = target.astype(np.float32)
        # float32 holds every sample value exactly, so alpha 0 and alpha 1 are exact.
        mixed = old + alpha_HW[:, :, None] * (new.astype(np.float32) - old)
        if plane.fixed_channel is not None:
            mixed[:, :, plane.fixed_channel] = old[:, :, plane.fixed_channel]
        target[...] = np.rint(mixed).astype(layout.dtype)

    def _patch(
        self, area: Box, inner: Box, rgb: Samples, alpha_HW: NDArray[np.float32], *, deep: bool
    ) -> av.VideoFrame:
        """`area` in the native pixel format: `rgb` where alpha is above 0, the frame's own colours elsewhere."""
        new = self._orientation.stored(rgb)
        if deep and new.dtype == np.uint8:
            new = new.astype(np.uint16) * 257
        elif not deep and new.dtype == np.uint16:
            new = _to_8_bits(new)
        # The converted frame, not a fresh one: it carries where the chroma samples sit.
        source = self._rgb_frame(area, deep=deep)
        if source is self._frame:
            source = av.VideoFrame.from_ndarray(source.to_ndarray(), source.format.name)
        place = inner.shift(-area.x, -area.y).slices
        pixels = _rgb_view(source)[place]
        np.copyto(pixels, new, where=alpha_HW[place][:, :, None] > 0)
        native = self._frame.format
        if native.is_rgb:
            return source.reformat(format=native.name, interpolation=SWS_FLAGS, threads=1)
        return source.reformat(
            format=native.name,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self._matrix,
            dst_color_range=self._range,
            interpolation=SWS_FLAGS,
            threads=1,
        )

    @property
    def _matrix(self) -> Colorspace:
        untagged = Colorspace.ITU601 if self._frame.height <= SD_LINES else Colorspace.ITU709
        return _MATRIX.get(int(self._frame.colorspace), untagged)

    @property
    def _range(self) -> ColorRange:
        full = self._frame.color_range == ColorRange.JPEG.value or self._frame.format.name.startswith("yuvj")
        return ColorRange.JPEG if full else ColorRange.MPEG

    def _stored_box(self, box: Box | None) -> Box:
        if box is None:
            return Box(0, 0, self._frame.width, self._frame.height)
        if box.clip(self.size) != box:
            raise ValueError(f"box: expected one inside the frame of {self.size}, got {box}")
        return self._orientation.stored_box(box, self.size)

    def _aligned(self, box: Box) -> Box:
        """`box` with the surroundings that chroma filters read, from and to whole chroma samples."""
        whole = self._whole_chroma()
        x, y = max(0, align_down(box.x, _GRID_PX) - _GRID_PX), max(0, align_down(box.y, _GRID_PX) - _GRID_PX)
        right = min(whole.width, align_up(box.right, _GRID_PX) + _GRID_PX)
        bottom = min(whole.height, align_up(box.bottom, _GRID_PX) + _GRID_PX)
        return Box(x, y, right - x, bottom - y)

    def _whole_chroma(self) -> Size:
        """The stored size, rounded up to whole chroma samples: swscale stretches the chroma of odd sizes a little."""
        layout = plane_layout(self._frame.format.name)
        if layout is None:
            return Size(self._frame.width, self._frame.height)
        step_x = 1 << max(plane.shift_x for plane in layout.planes)
        step_y = 1 << max(plane.shift_y for plane in layout.planes)
        return Size(align_up(self._frame.width, step_x), align_up(self._frame.height, step_y))

    def _stored_rgb(self, box: Box, *, deep: bool) -> Samples:
        """A fresh (H, W, 3) array of `box` in stored orientation; `deep` gives uint16 of 0..65535."""
        area = self._aligned(box)
        layout = plane_layout(self._frame.format.name)
        if layout is None:
            area = Box(0, 0, self._frame.width, self._frame.height)
        # Deep sources go through 16 bits: swscale dithers when it cuts to 8, and its pattern depends on the position.
        through16 = deep or layout is None or layout.deep
        pixels = _rgb_view(self._rgb_frame(area, deep=through16))[box.shift(-area.x, -area.y).slices]
        return _to_8_bits(pixels) if through16 and not deep else pixels.copy()

    def _rgb_frame(self, area: Box, *, deep: bool) -> av.VideoFrame:
        """`area` as rgb24 or, `deep`, rgb48le. The native frame itself when that is all of it in that format."""
        source = self._cropped(area)
        rgb_format = "rgb48le" if deep else "rgb24"
        if source.format.is_rgb or source.format.name.startswith("gray"):
            return source.reformat(format=rgb_format, interpolation=SWS_FLAGS, threads=1)
        return source.reformat(
            format=rgb_format,
            src_colorspace=self._matrix,
            src_color_range=self._range,
            dst_color_range=ColorRange.JPEG,
            interpolation=SWS_FLAGS,
            threads=1,
        )

    def _cropped(self, area: Box) -> av.VideoFrame:
        """A copy of the native samples of `area`; the frame itself when that is all of it."""
        layout = plane_layout(self._frame.format.name)
        if layout is None or area.size == Size(self._frame.width, self._frame.height):
            return self._frame
        # Scaled from the frame only to inherit its properties: PyAV has no other way to pass on the chroma location,
        # without which a patch would convert to other colours than the frame.
        patch = self._frame.reformat(width=area.width, height=area.height, interpolation=Interpolation.POINT, threads=1)
        for plane in layout.planes:
            target = plane_view(patch, plane, layout.dtype)
            rows, columns = target.shape[:2]
            top, left = area.y >> plane.shift_y, area.x >> plane.shift_x
            samples = plane_view(self._frame, plane, layout.dtype)[top : top + rows, left : left + columns]
            beyond = ((0, rows - samples.shape[0]), (0, columns - samples.shape[1]), (0, 0))
            target[...] = np.pad(samples, beyond, mode="edge") if any(map(sum, beyond)) else samples
        return patch


def _rgb_view(frame: av.VideoFrame) -> Samples:
    """The writable (H, W, 3) pixels of an rgb24 or rgb48le frame."""
    layout = plane_layout(frame.format.name)
    assert layout is not None
    return plane_view(frame, layout.planes[0], layout.dtype)


def _to_8_bits(pixels: Samples) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return rounded
