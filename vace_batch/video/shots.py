"""Scan a video in one streaming pass: its exact frame count, time stamps, damage and cuts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from scenedetect.detector import SceneDetector

from vace_batch.errors import ClipError
from vace_batch.options import MediaLimits
from vace_batch.video.frame import Frame
from vace_batch.video.libav import converting
from vace_batch.video.probe import check_frames, open_source, video_stream
from vace_batch.video.reader import Decoder, demux

DETECTION_WIDTH = 192
"""Frames are shrunk to about this width for cut detection: a cut changes the whole picture."""

MIN_SHOT_FRAMES = 4
"""Shorter shots are joined: flashes, and the two frames a faded cut takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Time stamps and cuts of a video.

    `pts` are in the stream's time base, strictly increasing; `cuts` are the first frames of all shots but the first.
    """

    num_frames: int
    pts: tuple[int, ...]
    cuts: tuple[int, ...]
    corrupt_frames: int = 0


def scan(path: str, limits: MediaLimits | None = None) -> Scan:
    """Decode all of `path` once, up to `limits`, and keep only its time stamps and cuts.

    Raises:
        ClipError: as `probe`, and damaged_video, size_changed, bad_timestamps, interlaced, unsupported_pixel_format.
    """
    limits = limits or MediaLimits()
    pts: list[int] = []
    packets = 0
    with open_source(path) as container:
        stream = video_stream(container, path, limits.max_pixels)
        cuts = _Cuts(stream)
        decoder = Decoder(stream, path)
        for packet in demux(container, path, stream):
            packets += packet.size > 0
            for frame in decoder.feed(packet):
                pts.append(frame.pts)
                check_frames(path, len(pts), limits)
                cuts.add(frame)
        _check_complete(container, stream, path, packets)
    if not pts:
        raise ClipError("no_frames", f"{path}: its video track has no frames")
    return Scan(num_frames=len(pts), pts=tuple(pts), cuts=cuts.result())


class _Cuts:
    """Finds cuts with two detectors of PySceneDetect on small frames.

    Either detector suffices for a cut: a missed cut would smear two shots into each other, an invented one costs a
    window.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._rate = float(stream.average_rate or Fraction(25))
        self._detectors: tuple[SceneDetector, ...] = (
            ContentDetector(min_scene_len=0),
            AdaptiveDetector(min_scene_len=0),
        )
        self._scaler = VideoReformatter()
        self._cuts: set[int] = set()
        self._count = 0

    def add(self, frame: Frame) -> None:
        native = frame.native
        width = min(native.width, DETECTION_WIDTH)
        height = max(1, round(native.height * width / native.width))
        with converting(native):
            small = self._scaler.reformat(
                native, width=width, height=height, format="bgr24", interpolation=Interpolation.AREA, threads=1
            )
        pixels: NDArray[np.uint8] = small.to_ndarray().astype(np.uint8, copy=False)
        for detector in self._detectors:
            self._cuts.update(cut.frame_num for cut in detector.process_frame(self._time(frame.index), pixels))
        self._count = frame.index + 1

    def result(self) -> tuple[int, ...]:
        for detector in self._detectors:
            self._cuts.update(cut.frame_num for cut in detector.post_process(self._time(max(0, self._count - 1))))
        kept = [0]
        for cut in sorted(self._cuts):
            if cut - kept[-1] >= MIN_SHOT_FRAMES and cut < self._count:
                kept.append(cut)
        return tuple(kept[1:])

    def _time(self, index: int) -> FrameTimecode:
        return FrameTimecode(index, self._rate)


def _check_complete(container: InputContainer, stream: VideoStream, path: str, packets: int) -> None:
    """Refuse an MP4 or MOV that holds fewer packets than its index lists: a cut-off file ends without an error."""
    indexed = len(stream.index_entries) if container.format.name.startswith("mov,") else 0
    if packets < indexed:
        raise ClipError("damaged_video", f"{path}: holds {packets} of the {indexed} frames that its index lists")
