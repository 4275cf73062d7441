"""Find where chroma samples sit between luma samples: libav knows it and converts by it, PyAV has no name for it."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from vace_batch.video.frame import SWS_FLAGS
from vace_batch.video.libav import converting
from vace_batch.video.planes import plane_layout, plane_view

# The level of a step between two chroma samples, at the luma pixel before the step's middle: half where samples sit on
# luma pixels, a fifth where they sit between two pixels, zero where each sits on the later pixel.
_STEP_PX = 32
_SITES = {"on": 0.5, "between": 0.21, "later": 0.0}
_NAMES = {
    ("on", "between"): "left",
    ("between", "between"): "center",
    ("on", "on"): "topleft",
    ("between", "on"): "top",
    ("on", "later"): "bottomleft",
    ("between", "later"): "bottom",
}


def chroma_location(frame: av.VideoFrame) -> str | None:
    """Return libav's name for a frame's chroma location; None where chroma is not subsampled.

    Found by converting a step. Untagged frames have the location that swscale assumes.

    Raises:
        ClipError: unsupported_pixel_format.
    """
    layout = plane_layout(frame.format.name)
    if layout is None or not any(plane.shift_x for plane in layout.planes):
        return None
    with converting(frame):
        across = _site(frame, axis=1)
        down = _site(frame, axis=0) if any(plane.shift_y for plane in layout.planes) else "between"
    return _NAMES.get((across, down))


def _site(frame: av.VideoFrame, axis: int) -> str:
    layout = plane_layout(frame.format.name)
    assert layout is not None
    # Scaled only to inherit the frame's properties.
    step = frame.reformat(width=_STEP_PX, height=_STEP_PX, interpolation=Interpolation.POINT, threads=1)
    if step is frame:
        step = frame.reformat(width=2 * _STEP_PX, height=2 * _STEP_PX, threads=1)
        step = step.reformat(width=_STEP_PX, height=_STEP_PX, threads=1)
    middle = 1 << (frame.format.components[0].bits - 1)
    for plane in layout.planes:
        samples = plane_view(step, plane, layout.dtype)
        samples[...] = middle
        if plane.shift_x:
            low, high = np.array_split(samples, 2, axis=axis)
            low[...] = middle * 3 // 4
            high[...] = middle * 5 // 4
    rgb = step.reformat(
        format="rgb48le",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SWS_FLAGS,
        threads=1,
    )
    blue = rgb.to_ndarray()[..., 2].astype(np.float64)
    line = blue[_STEP_PX // 2] if axis else blue[:, _STEP_PX // 2]
    seen = (line[_STEP_PX // 2 - 1] - line[4]) / (line[-4] - line[4])
    return min(_SITES, key=lambda name: abs(_SITES[name] - seen))
