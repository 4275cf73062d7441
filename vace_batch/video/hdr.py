"""Read and format HDR10 metadata: the range of the mastering display, and the brightness of the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.sidedata.sidedata import SideData

_COLOUR_STEP = Fraction(1, 50_000)
_LUMINANCE_STEP = Fraction(1, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdr:
    """Static metadata in the units of SMPTE ST 2086 and CTA 861.3, as H.264 and HEVC store it.

    `mastering`: x and y of green, blue, red and white in 1/50,000, then highest and lowest luminance in 1/10,000 cd/m².
    `content_light`: MaxCLL and MaxFALL in cd/m². `dynamic`: names of metadata that changes from frame to frame.
    """

    mastering: tuple[int, ...] | None = None
    content_light: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ()

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Hdr:
        """Read the metadata of a decoded frame."""
        mastering = content_light = None
        if (data := _integers(frame, "MASTERING_DISPLAY_METADATA")) is not None:
            mastering = _mastering(data)
        if (data := _integers(frame, "CONTENT_LIGHT_LEVEL")) is not None:
            content_light = (data[0], data[1])
        names = {"DYNAMIC_HDR_PLUS": "HDR10+", "DOVI_METADATA": "Dolby Vision", "DYNAMIC_HDR_VIVID": "HDR Vivid"}
        dynamic = tuple(name for kind, name in names.items() if frame.side_data.get(kind) is not None)
        return cls(mastering=mastering, content_light=content_light, dynamic=dynamic)

    @property
    def mastering_text(self) -> str | None:
        """Mastering metadata as x264 and x265 read it; for SVT-AV1 see `mastering_real`."""
        if self.mastering is None:
            return None
        return "G({},{})B({},{})R({},{})WP({},{})L({},{})".format(*self.mastering)

    @property
    def mastering_real(self) -> str | None:
        """Mastering metadata in real numbers, x, y and cd/m², as SVT-AV1 reads it."""
        if self.mastering is None:
            return None
        values = [f"{float(value * _COLOUR_STEP):.5f}" for value in self.mastering[:8]]
        values += [f"{float(value * _LUMINANCE_STEP):.4f}" for value in self.mastering[8:]]
        return "G({},{})B({},{})R({},{})WP({},{})L({},{})".format(*values)


def _integers(frame: av.VideoFrame, kind: str) -> Sequence[int] | None:
    data = frame.side_data.get(kind)
    return memoryview(data).cast("i").tolist() if isinstance(data, SideData) else None


def _mastering(integers: Sequence[int]) -> tuple[int, ...] | None:
    """Convert AVMasteringDisplayMetadata: rationals of red, green, blue, white, lowest, highest luminance; flags."""
    if len(integers) < 22 or not integers[20] or not integers[21] or 0 in integers[1:20:2]:
        return None
    red, green, blue, white = _place(integers, 0), _place(integers, 4), _place(integers, 8), _place(integers, 12)
    lowest = _steps(integers, 16, _LUMINANCE_STEP)
    highest = _steps(integers, 18, _LUMINANCE_STEP)
    return (*green, *blue, *red, *white, highest, lowest)


def _place(integers: Sequence[int], at: int) -> tuple[int, int]:
    """Read the x and y of a colour from two rationals at `at`."""
    return _steps(integers, at, _COLOUR_STEP), _steps(integers, at + 2, _COLOUR_STEP)


def _steps(integers: Sequence[int], at: int, step: Fraction) -> int:
    return round(Fraction(integers[at], integers[at + 1]) / step)
