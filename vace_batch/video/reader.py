"""Read frames, masks and images, exactly and in order."""

from __future__ import annotations

import errno
import io
from collections import deque
from collections.abc import Iterator, Sequence

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vace_batch.errors import ClipError
from vace_batch.video.frame import Frame
from vace_batch.video.libav import is_machine_error
from vace_batch.video.orientation import Orientation
from vace_batch.video.probe import MAX_PIXELS, check_progressive, display_matrix, open_source, video_stream


class Decoder:
    """Turns packets of one video track into `Frame`s, and refuses damage and changes within the track.

    Frames before `first_pts` are dropped unchecked: after a seek they may lack their references.
    """

    def __init__(self, stream: VideoStream, path: str, *, first_pts: int | None = None, first_index: int = 0) -> None:
        self._stream = stream
        self._path = path
        self._first_pts = first_pts
        self._index = first_index
        self._last_pts: int | None = None
        self._shape: tuple[int, int, str] | None = None
        self._orientation = Orientation()
        self._chunk_times: deque[int] | None = deque() if _lacks_pts(stream) else None

    def feed(self, packet: Packet[Stream] | None) -> Iterator[Frame]:
        """Yield the frames that `packet` completes; an empty packet, or None, flushes the decoder.

        Raises:
            ClipError: damaged_video, interlaced, size_changed, bad_timestamps.
        """
        for frame in self._decoded(packet):
            assert isinstance(frame, av.VideoFrame)
            pts = self._time_of(frame)
            if self._is_before_first(pts):
                continue
            self._check(frame, pts)
            assert pts is not None
            yield Frame(frame, index=self._index, pts=pts, orientation=self._orientation)
            self._index += 1

    def jump(self, index: int) -> None:
        """Prepare for a key frame that gives frame `index`, after a flush; the frame may have been given before."""
        self._stream.codec_context.flush_buffers()
        self._index, self._last_pts = index, None
        if self._chunk_times is not None:
            self._chunk_times.clear()

    def _decoded(self, packet: Packet[Stream] | None) -> Sequence[object]:
        """Decode a packet; damage before the first wanted frame gives an empty list."""
        try:
            frames = packet.decode() if packet is not None else self._stream.decode(None)
        except av.error.FFmpegError as error:
            if self._seeking:
                return []
            raise self._damaged(f"a packet cannot be decoded ({error.strerror})") from error
        if packet is not None and self._chunk_times is not None and packet.size and packet.dts is not None:
            self._chunk_times.append(packet.dts)
        return frames

    def _is_before_first(self, pts: int | None) -> bool:
        if not self._seeking or self._first_pts is None:
            return False
        return pts is not None and pts < self._first_pts

    def _time_of(self, frame: av.VideoFrame) -> int | None:
        if self._chunk_times is not None:
            return self._chunk_times.popleft() if self._chunk_times else None
        return frame.pts if frame.pts is not None else frame.dts

    def _named_time(self, pts: int | None) -> str:
        """Name a frame's time, for a message."""
        time_base = self._stream.time_base
        return "no time" if pts is None or time_base is None else f"{float(pts * time_base):.3f} s"

    @property
    def _seeking(self) -> bool:
        return self._first_pts is not None and self._last_pts is None

    def _check(self, frame: av.VideoFrame, pts: int | None) -> None:
        if frame.is_corrupt:
            raise self._damaged("the picture is damaged")
        check_progressive(frame, self._path)
        shape = (frame.width, frame.height, frame.format.name)
        if self._shape is None:
            self._shape = shape
            self._orientation = Orientation.from_matrix(display_matrix(frame))
        if shape != self._shape:
            before = "{}x{} {}".format(*self._shape)
            after = "{}x{} {}".format(*shape)
            raise ClipError(
                "size_changed", f"{self._path}: pictures change from {before} to {after} at frame {self._index}"
            )
        if pts is None or (self._last_pts is not None and pts <= self._last_pts):
            raise ClipError(
                "bad_timestamps",
                f"{self._path}: frame {self._index} has {self._named_time(pts)} and must be later than the frame "
                f"before ({self._named_time(self._last_pts)}); write the times anew: `ffmpeg -i IN -c copy OUT`",
            )
        self._last_pts = pts

    def _damaged(self, what: str) -> ClipError:
        return ClipError("damaged_video", f"{self._path}: {what} at frame {self._index}")


def read_frames(path: str, start: int = 0, stop: int | None = None, *, start_pts: int | None = None) -> Iterator[Frame]:
    """Read frames `start` to `stop` (exclusive, default: to the end), in display order.

    `start_pts`, the time stamp of frame `start` as `scan` reported it, allows seeking; without it decoding starts at
    the first frame. Each frame must be used before the next is asked for.

    Raises:
        ClipError: as `probe`, and damaged_video, size_changed, bad_timestamps, interlaced.
    """
    if stop is not None and stop <= start:
        return
    frames: Iterator[Frame]
    if start == 0 or start_pts is None:
        frames = (frame for frame in _decode(path) if frame.index >= start)
    else:
        frames = _seek(path, start, start_pts)
    for frame in frames:
        yield frame
        if stop is not None and frame.index + 1 >= stop:
            return


def read_gray(path: str, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read frames as full-range gray, (H, W) uint8; 8-bit gray video (FFV1 masks) is returned bit for bit.

    Raises:
        ClipError: as `read_frames`.
    """
    for frame in read_frames(path, start, stop):
        yield frame.gray()


def read_image(path: str, *, gray: bool = False) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) RGB or, with `gray`, (H, W); EXIF orientation applied, transparency over white.

    Raises:
        ClipError: not_found, not_an_image, too_large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise ClipError("too_large", f"{path}: an image of {size}, the limit is {MAX_PIXELS} pixels")
            return _image_array(ImageOps.exif_transpose(image), gray)
    except Image.DecompressionBombError as error:
        raise ClipError("too_large", f"{path}: an image over the limit of {MAX_PIXELS} pixels") from error
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        raise ClipError("not_found", f"{path}: no such file") from error
    except (OSError, SyntaxError) as error:
        raise ClipError("not_an_image", f"{path}: not a readable image ({error})") from error


def frames_from_bytes(data: bytes) -> Iterator[NDArray[np.uint8]]:
    """Read the (H, W, 3) frames that `encode_lossless` packed, bit for bit."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def demux(container: InputContainer, path: str, *streams: Stream) -> Iterator[Packet[Stream]]:
    """Yield the packets of `streams` in file order, then an empty packet for each stream.

    Raises:
        ClipError: damaged_video.
        OSError: the disk fails; no verdict on the video.
    """
    try:
        yield from container.demux(*streams)
    except av.error.FFmpegError as error:
        # ENOMEM: sizes in a damaged file ask for more memory than libav gives.
        if is_machine_error(error) and error.errno != errno.ENOMEM:
            raise
        raise ClipError("damaged_video", f"{path}: cannot be read to its end ({error.strerror})") from error


def packet_times(path: str) -> list[int | None]:
    """Read each frame's display time, in the stream's time base and in display order; decodes nothing.

    A time is None if the container does not store display times.

    Raises:
        ClipError: as `probe`, and damaged_video.
    """
    with open_source(path) as container:
        stream = video_stream(container, path)
        shown = [packet for packet in demux(container, path, stream) if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in shown if packet.pts is not None)
        return [*times] if len(times) == len(shown) and not _lacks_pts(stream) else [None] * len(shown)


def _lacks_pts(stream: VideoStream) -> bool:
    """Return whether the container stores no display times, as AVI.

    libav's guesses for B-frames are out of order: the nth picture shown gets the time of the nth chunk.
    """
    return stream.container.format.name == "avi"


def _decode(path: str) -> Iterator[Frame]:
    with open_source(path) as container:
        stream = video_stream(container, path)
        decoder = Decoder(stream, path)
        for packet in demux(container, path, stream):
            yield from decoder.feed(packet)


def _seek(path: str, start: int, start_pts: int) -> Iterator[Frame]:
    """Yield frames from the one stamped `start_pts` on, numbered from `start`."""
    with open_source(path) as container:
        stream = video_stream(container, path)
        for seek_pts in _seek_times(stream, start_pts):
            try:
                container.seek(seek_pts, stream=stream)
            except av.error.FFmpegError:  # a damaged index: decode from the start
                break
            decoder = Decoder(stream, path, first_pts=start_pts, first_index=start)
            frames = (frame for packet in demux(container, path, stream) for frame in decoder.feed(packet))
            first = next(frames, None)
            if first is not None and first.pts == start_pts:
                yield first
                yield from frames
                return
    yield from (frame for frame in _decode(path) if frame.index >= start)


def _seek_times(stream: VideoStream, start_pts: int) -> list[int]:
    """List the times to seek to, in turn, until a seek lands at or before the frame at `start_pts`.

    A demuxer may seek by decoding time and land on a key frame shown after `start_pts`; the next time is earlier.
    """
    if _lacks_pts(stream):
        return []
    second = int(1 / stream.time_base) if stream.time_base else 1000
    times = [start_pts - back for back in (0, second, 10 * second)]
    return times if start_pts < 0 else [max(0, time) for time in times]


def _image_array(image: Image.Image, gray: bool) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        levels = np.clip(deep // 256 if deep.max(initial=0) > 255 else deep, 0, 255).astype(np.uint8)
        image = Image.fromarray(levels)
    if image.has_transparency_data:
        layers = Image.new("RGBA", image.size, "white")
        layers.alpha_composite(image.convert("RGBA"))
        image = layers
    return np.array(image.convert("L" if gray else "RGB"), dtype=np.uint8)
