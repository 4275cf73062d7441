"""Write mask videos: lossless gray FFV1, black and white."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray


def write_mask_video(path: str, masks: Iterable[NDArray[np.bool_]], rate: Fraction) -> None:
    """Write (H, W) bool masks, one per frame, as FFV1 in Matroska: 0 and 255; `read_gray` returns them."""
    with av.open(path, "w", format="matroska", container_options={"fflags": "+bitexact"}) as sink:
        stream = None
        for index, mask_HW in enumerate(masks):
            if stream is None:
                stream = sink.add_stream("ffv1", rate=rate, width=mask_HW.shape[1], height=mask_HW.shape[0])
                stream.pix_fmt = "gray"
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"level": "3", "slicecrc": "1", "flags": "+bitexact"}
            frame = av.VideoFrame.from_ndarray(mask_HW.astype(np.uint8) * np.uint8(255), "gray")
            frame.pts, frame.time_base = index, 1 / rate
            sink.mux(stream.encode(frame))
        if stream is not None:
            sink.mux(stream.encode(None))
