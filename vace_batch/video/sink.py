"""Open output files with the muxer's options, and remove them when writing fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import av
import av.error
from av.container import InputContainer, OutputContainer

from vace_batch.video.libav import refused_as
from vace_batch.video.probe import VideoInfo, local_url


@contextmanager
def open_sink(path: str, muxer: str | None, options: dict[str, str]) -> Iterator[OutputContainer]:
    """Open an output file, and remove it when the block or the trailer fails.

    Raises:
        ClipError: cannot_write when the muxer cannot end the file.
        OSError: the disk is full or fails.
    """
    sink = av.open(local_url(path), "w", format=muxer, container_options=options, metadata_errors="surrogateescape")
    try:
        yield sink
        with refused_as("cannot_write", f"the {sink.format.name} muxer cannot end its file"):
            sink.close()
    except BaseException:
        with suppress(av.error.FFmpegError):
            sink.close()
        if os.path.isfile(path):
            os.unlink(path)
        raise


def muxer_options(source: InputContainer, info: VideoInfo, muxer: str) -> dict[str, str]:
    """Return the options with which `muxer` keeps labels and time stamps of `source`."""
    options = {"fflags": "+bitexact"}
    if muxer in ("mp4", "mov"):
        # QuickTime's reverse-domain keys have no place in the plain metadata box.
        keys = "+use_metadata_tags" if any(key.startswith("com.") for key in source.metadata) else ""
        options["movflags"] = "+faststart" + keys
        if info.time_base.numerator == 1:
            options["video_track_timescale"] = str(info.time_base.denominator)
    elif muxer == "avi":
        # Sound that begins before the first picture, as AAC does, would move the pictures by a frame.
        options["avoid_negative_ts"] = "disabled"
    elif muxer == "mpegts":
        options["mpegts_copyts"] = "1"
    return options
