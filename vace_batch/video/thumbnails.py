"""Make small pictures for contact sheets with decord, which resizes while it decodes and seeks for itself."""

from __future__ import annotations

from collections.abc import Sequence

import decord
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from vace_batch.geometry import Size
from vace_batch.video.libav import converting
from vace_batch.video.probe import VideoInfo, probe
from vace_batch.video.reader import read_frames


def sample_frames(path: str, indices: Sequence[int], width: int) -> list[NDArray[np.uint8]]:
    """Return frames `indices` as (h, width, 3) RGB in display orientation, with square pixels, in the order asked.

    For viewing only: decord ignores colour tags, and counts frames that an edit list hides.

    Raises:
        ClipError: as `probe` and `read_frames`.
        ValueError: an index is negative or beyond the last frame.
    """
    info = probe(path)  # also keeps decord from files that are playlists or no video at all
    if not indices:
        return []
    if min(indices) < 0:
        raise ValueError(f"sample_frames: expected indices of 0 and more, got {min(indices)}")
    size = _thumbnail(info, width)
    if _decord_shows(info):
        try:
            reader = decord.VideoReader(path, width=size.width, height=size.height, num_threads=1)
            return list(reader.get_batch(list(indices)).asnumpy())
        except (decord.DECORDError, IndexError, RuntimeError):
            pass  # decord's libav is old: it fails on AV1, odd and damaged files
    return _decode_all(info, indices, size)


def _thumbnail(info: VideoInfo, width: int) -> Size:
    sideways = info.orientation.turns % 2
    pixel = float(info.sample_aspect_ratio or 1)
    aspect = info.size.height / info.size.width * (pixel if sideways else 1 / pixel)
    return Size(width, max(1, round(width * aspect)))


def _decord_shows(info: VideoInfo) -> bool:
    """Return whether decord shows this file upright and counts its frames right.

    decord turns MP4 and MOV itself; it knows neither mirrors nor the rotation of other containers, and miscounts AVI
    with B-frames.
    """
    if info.orientation.mirrored or info.container == "avi":
        return False
    return not info.orientation.turns or info.container in ("mp4", "mov")


def _decode_all(info: VideoInfo, indices: Sequence[int], size: Size) -> list[NDArray[np.uint8]]:
    stored = info.orientation.display_size(size)
    pictures: dict[int, NDArray[np.uint8]] = {}
    for frame in read_frames(info.path, min(indices), max(indices) + 1):
        if frame.index in indices:
            with converting(frame.native):
                small = frame.native.reformat(
                    width=stored.width,
                    height=stored.height,
                    format="rgb24",
                    interpolation=Interpolation.AREA,
                    threads=1,
                )
            pixels = frame.orientation.display(small.to_ndarray())
            pictures[frame.index] = np.ascontiguousarray(pixels).astype(np.uint8, copy=False)
    if missing := set(indices) - set(pictures):
        raise ValueError(f"sample_frames: {info.path} has no frame {min(missing)}")
    return [pictures[index] for index in indices]
