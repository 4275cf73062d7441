"""View one decoded frame as RGB, and edit its native planes.

Shape legend: H rows, W columns, C channels (RGB). "Stored" is the orientation of the coded picture, "display" that of a
player; everything public is in display orientation.
"""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size, align_down, align_up
from vace_batch.video.libav import converting
from vace_batch.video.orientation import Orientation
from vace_batch.video.planes import Plane, PlaneLayout, Samples, plane_layout, plane_view, shrink_alpha

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
        """Bits per sample."""
        return int(self._frame.format.components[0].bits)

    def rgb(self, box: Box | None = None) -> NDArray[np.uint8]:
        """Return the pixels in `box` (default: all) as full-range RGB, (H, W, 3) uint8, contiguous.

        Raises:
            ValueError: `box` leaves the frame.
        """
        stored = self._stored_rgb(self._stored_box(box), deep=False)
        return np.ascontiguousarray(self._orientation.display(stored)).astype(np.uint8, copy=False)

    def small(self, size: Size) -> NDArray[np.uint8]:
        """Return the whole picture at `size` (display orientation), (H, W, 3) uint8 RGB; for viewing, not exact."""
        stored = size if self._orientation.turns % 2 == 0 else Size(size.height, size.width)
        with converting(self._frame):
            shrunk = self._frame.reformat(
                width=stored.width,
                height=stored.height,
                format="rgb24",
                interpolation=Interpolation.BILINEAR,
                threads=1,
            )
        pixels = self._orientation.display(shrunk.to_ndarray())
        return np.ascontiguousarray(pixels).astype(np.uint8, copy=False)

    def rgb16(self, box: Box | None = None) -> NDArray[np.uint16]:
        """Return the pixels in `box` as RGB over 0..65535: keeps the precision of a 10-bit source.

        Raises:
            ValueError: `box` leaves the frame.
        """
        stored = self._stored_rgb(self._stored_box(box), deep=True)
        return np.ascontiguousarray(self._orientation.display(stored)).astype(np.uint16, copy=False)

    def gray(self) -> NDArray[np.uint8]:
        """Return the brightness at full range, (H, W) uint8; 8-bit gray video is returned bit for bit."""
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

    def is_coloured(self, distance: int) -> bool:
        """Return whether any sample is more than `distance` 8-bit levels from gray."""
        layout = plane_layout(self._frame.format.name)
        if layout is None or self._frame.format.is_rgb:
            rgb = self.rgb()
            return bool((rgb.max(axis=2) - rgb.min(axis=2)).max() > distance)
        middle = 1 << (self._frame.format.components[0].bits - 1)
        most = distance * middle // 128
        chroma = (plane_view(self._frame, plane, layout.dtype) for plane in layout.planes[1:])
        return any(int(each.max()) > middle + most or int(each.min()) < middle - most for each in chroma)

    def least_alpha(self) -> int:
        """Return the smallest opacity of any pixel, 0 to 255; 255 for a format without transparency."""
        native = self._frame.format
        if not native.has_palette and not any(component.is_alpha for component in native.components):
            return 255
        with converting(self._frame):
            return int(self._frame.reformat(format="rgba", threads=1).to_ndarray()[..., 3].min())

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
        alpha_HW[inner.slices_in(area)] = self._orientation.stored(alpha)
        kept_HW = np.zeros_like(alpha_HW)
        if kept is not None:
            kept_HW[inner.slices_in(area)] = self._orientation.stored(kept)
            alpha_HW[kept_HW > 0] = 0
        beyond = ((0, area.height - inside.height), (0, area.width - inside.width))
        alpha_HW = np.pad(alpha_HW, beyond, mode="edge")
        kept_HW = np.pad(kept_HW, beyond, mode="edge")
        patch = self._patch(area, inner, rgb, alpha_HW, deep=layout.deep)
        for plane in layout.planes:
            free = shrink_alpha(kept_HW, plane) == 0
            self._blend(plane, layout, area, patch, shrink_alpha(alpha_HW, plane) * free)

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
        """Convert `area` to the native pixel format: `rgb` where alpha is above 0, else the frame's own colours."""
        new = self._orientation.stored(rgb)
        if deep and new.dtype == np.uint8:
            new = new.astype(np.uint16) * 257
        elif not deep and new.dtype == np.uint16:
            new = _to_8_bits(new)
        # The converted frame, not a fresh one: it carries the chroma location.
        source = self._rgb_frame(area, deep=deep)
        if source is self._frame:
            source = av.VideoFrame.from_ndarray(source.to_ndarray(), source.format.name)
        place = inner.slices_in(area)
        pixels = _rgb_view(source)[place]
        np.copyto(pixels, new, where=alpha_HW[place][:, :, None] > 0)
        native = self._frame.format
        with converting(self._frame):
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
        """Grow `box` by the pixels that chroma filters read, to whole chroma samples."""
        whole = self._whole_chroma()
        x = max(0, align_down(box.x, _GRID_PX) - _GRID_PX)
        y = max(0, align_down(box.y, _GRID_PX) - _GRID_PX)
        right = min(whole.width, align_up(box.right, _GRID_PX) + _GRID_PX)
        bottom = min(whole.height, align_up(box.bottom, _GRID_PX) + _GRID_PX)
        return Box(x, y, right - x, bottom - y)

    def _whole_chroma(self) -> Size:
        """Return the stored size rounded up to whole chroma samples: swscale stretches the chroma of odd sizes."""
        layout = plane_layout(self._frame.format.name)
        if layout is None:
            return Size(self._frame.width, self._frame.height)
        step_x = 1 << max(plane.shift_x for plane in layout.planes)
        step_y = 1 << max(plane.shift_y for plane in layout.planes)
        return Size(align_up(self._frame.width, step_x), align_up(self._frame.height, step_y))

    def _stored_rgb(self, box: Box, *, deep: bool) -> Samples:
        """Return a fresh (H, W, 3) array of `box` in stored orientation; `deep` gives uint16 of 0..65535."""
        area = self._aligned(box)
        layout = plane_layout(self._frame.format.name)
        if layout is None:
            area = Box(0, 0, self._frame.width, self._frame.height)
        # Deep sources go through 16 bits: swscale dithers when it cuts to 8, and its pattern depends on the position.
        through16 = deep or layout is None or layout.deep
        pixels = _rgb_view(self._rgb_frame(area, deep=through16))[box.slices_in(area)]
        return _to_8_bits(pixels) if through16 and not deep else pixels.copy()

    def _rgb_frame(self, area: Box, *, deep: bool) -> av.VideoFrame:
        """Convert `area` to rgb24 or, if `deep`, to rgb48le; a whole frame of that format is returned itself."""
        source = self._cropped(area)
        rgb_format = "rgb48le" if deep else "rgb24"
        with converting(self._frame):
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
        """Copy the native samples of `area`; for the whole area, return the frame itself."""
        layout = plane_layout(self._frame.format.name)
        if layout is None or area.size == Size(self._frame.width, self._frame.height):
            return self._frame
        # Scaled from the frame only to inherit its properties: PyAV has no other way to pass on the chroma location,
        # without which a patch would convert to other colours than the frame.
        with converting(self._frame):
            patch = self._frame.reformat(
                width=area.width, height=area.height, interpolation=Interpolation.POINT, threads=1
            )
        for plane in layout.planes:
            target = plane_view(patch, plane, layout.dtype)
            rows, columns = target.shape[:2]
            top, left = area.y >> plane.shift_y, area.x >> plane.shift_x
            samples = plane_view(self._frame, plane, layout.dtype)[top : top + rows, left : left + columns]
            beyond = ((0, rows - samples.shape[0]), (0, columns - samples.shape[1]), (0, 0))
            target[...] = np.pad(samples, beyond, mode="edge") if any(map(sum, beyond)) else samples
        return patch


def _rgb_view(frame: av.VideoFrame) -> Samples:
    """Return the writable (H, W, 3) pixels of an rgb24 or rgb48le frame."""
    layout = plane_layout(frame.format.name)
    assert layout is not None
    return plane_view(frame, layout.planes[0], layout.dtype)


def _to_8_bits(pixels: Samples) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return rounded
