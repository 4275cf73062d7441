"""Describe the planes of native pixel formats, and view their samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.format import VideoFormat, VideoFormatComponent
from numpy.typing import NDArray

Samples = NDArray[Any]
"""Pixels or native samples, uint8 or uint16."""

_ALPHA_FIRST = frozenset({"argb", "abgr"})
_FOUR_BYTE_RGB = frozenset({"rgb0", "bgr0", "0rgb", "0bgr"})
_SIDE_PX = 64
"""Width and height of the picture that tells the sizes of a format's planes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Layout of one plane: `channels` interleaved samples, shifted right by `shift_x`, `shift_y` against luma.

    `fixed_channel` is the channel of transparency, which edits leave alone.
    """

    index: int
    channels: int
    shift_x: int
    shift_y: int
    fixed_channel: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneLayout:
    """The sample type and the planes of a pixel format; `planes` leaves out a plane that only holds transparency."""

    dtype: np.dtype[np.generic]
    deep: bool
    planes: tuple[Plane, ...]


@lru_cache(maxsize=64)
def plane_layout(name: str) -> PlaneLayout | None:
    """Return the layout of pixel format `name`; None if its samples cannot be addressed one by one (pal8, yuyv422)."""
    pix_fmt = VideoFormat(name, _SIDE_PX, _SIDE_PX)
    bits = [component.bits for component in pix_fmt.components]
    members: dict[int, list[VideoFormatComponent]] = defaultdict(list)
    for component in pix_fmt.components:
        members[component.plane].append(component)
    if not _has_whole_samples(pix_fmt, bits) or any(map(_differ_in_width, members.values())):
        return None
    planes = [_plane(name, index, members[index]) for index in sorted(members) if not _is_transparency(members[index])]
    return PlaneLayout(dtype=_sample_type(pix_fmt, max(bits)), deep=max(bits) > 8, planes=tuple(planes))


def _has_whole_samples(pix_fmt: VideoFormat, bits: Sequence[int]) -> bool:
    """Tell whether each sample is a whole number of 8 to 16 `bits` that stands for itself."""
    if pix_fmt.has_palette or pix_fmt.is_bit_stream or pix_fmt.is_bayer or "f32" in pix_fmt.name:
        return False
    return min(bits) >= 8 and max(bits) <= 16


def _differ_in_width(members: Sequence[VideoFormatComponent]) -> bool:
    """Tell whether a plane interleaves components of different resolution, as yuyv422 does."""
    return len({component.width for component in members}) > 1


def _is_transparency(members: Sequence[VideoFormatComponent]) -> bool:
    return all(component.is_alpha for component in members)


def _sample_type(pix_fmt: VideoFormat, bits: int) -> np.dtype[Any]:
    if bits == 8:
        return np.dtype(np.uint8)
    return np.dtype(">u2" if pix_fmt.is_big_endian else "<u2")


def _plane(name: str, index: int, members: Sequence[VideoFormatComponent]) -> Plane:
    """Describe plane `index` of pixel format `name`, which interleaves `members`."""
    channels = 4 if name in _FOUR_BYTE_RGB else len(members)
    alpha_channel = 0 if name in _ALPHA_FIRST else channels - 1
    return Plane(
        index=index,
        channels=channels,
        shift_x=(_SIDE_PX // members[0].width).bit_length() - 1,
        shift_y=(_SIDE_PX // members[0].height).bit_length() - 1,
        fixed_channel=alpha_channel if any(component.is_alpha for component in members) else None,
    )


def is_editable(pix_fmt: str) -> bool:
    """Return whether `Frame.paste` can edit frames of this pixel format."""
    return plane_layout(pix_fmt) is not None


def plane_view(frame: av.VideoFrame, plane: Plane, dtype: np.dtype[np.generic]) -> Samples:
    """Return a writable (H, W, channels) view of one plane, without row padding."""
    buffer = frame.planes[plane.index]
    rows: Samples = np.frombuffer(memoryview(buffer), np.uint8).reshape(buffer.height, abs(buffer.line_size))
    if buffer.line_size < 0:
        rows = rows[::-1]
    samples: Samples = rows.view(dtype)[:, : buffer.width * plane.channels]
    return samples.reshape(buffer.height, buffer.width, plane.channels)


def shrink_alpha(alpha_HW: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Average alpha over the luma pixels that each sample of `plane` covers: exactly 0 where all of them are 0."""
    if not plane.shift_x and not plane.shift_y:
        return alpha_HW
    step_x, step_y = 1 << plane.shift_x, 1 << plane.shift_y
    height, width = alpha_HW.shape
    blocks = alpha_HW.reshape(height // step_y, step_y, width // step_x, step_x)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means
