"""SAM 2's real architecture, small and with random weights of a fixed seed, and clips of noise for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vace_batch.geometry import Size
from vace_batch.masks.detectors.yolo import import_ultralytics
from vace_batch.masks.segmenters.sam2_memory import Mark, Memory
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames

SIZE = Size(100, 60)


def small_memory() -> Memory:
    """The memory of a small SAM 2."""
    import_ultralytics()
    import torch
    from ultralytics.models.sam.build import _build_sam2

    torch.manual_seed(1)
    model = _build_sam2(
        encoder_embed_dim=16,
        encoder_stages=(1, 1, 2, 1),
        encoder_num_heads=1,
        encoder_global_att_blocks=(3,),
        encoder_backbone_channel_list=[128, 64, 32, 16],
    )
    return Memory(model.eval(), device="cpu", side=128)


def noise_frames(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIZE.height, SIZE.width, 3), np.uint8) for _ in range(count)]


def point_mark(x: float, y: float, positive: bool = True) -> Mark:
    return Mark(points=((x, y, positive),))


class NoiseClip:
    """A real video of `frames`, and which of its frames were asked for."""

    def __init__(self, path: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
        with av.open(str(path), "w") as sink:
            stream = sink.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, "bgr0"
            for rgb in pictures:
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
            sink.mux(stream.encode(None))
        self.path = str(path)
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> Iterator[Frame]:
        self.asked.append((start, stop))
        return read_frames(self.path, start, stop)
