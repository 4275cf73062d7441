"""Tell libav's errors apart: errors about the file become ClipErrors, errors of the machine stay as they are."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.error

from vace_batch.errors import ClipError

_MACHINE_ERRNOS = frozenset(
    {
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
        errno.ESTALE,
    }
)
"""A disk that is full or fails, and a process without memory or file handles: no verdict on the video."""


def is_machine_error(error: av.error.FFmpegError) -> bool:
    """Return whether the machine failed, not the file."""
    return error.errno in _MACHINE_ERRNOS


@contextmanager
def refused_as(code: str, reason: str) -> Iterator[None]:
    """Turn errors of libav in the block into a ClipError of `code`: `reason`, then libav's own message.

    Raises:
        ClipError: `code`.
        OSError, MemoryError: the machine failed.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        if is_machine_error(error):
            raise
        raise ClipError(code, f"{reason} ({error.strerror})") from error


@contextmanager
def converting(frame: av.VideoFrame) -> Iterator[None]:
    """Turn errors of swscale in the block, which converts `frame`, into a ClipError.

    A damaged header may name colours that swscale cannot convert; neither can it convert YCgCo and ICtCp.

    Raises:
        ClipError: unsupported_pixel_format.
    """
    tags = f"colour matrix {int(frame.colorspace)}, range {int(frame.color_range)}"
    with refused_as("unsupported_pixel_format", f"pixel format {frame.format.name} ({tags}) cannot be converted"):
        yield
