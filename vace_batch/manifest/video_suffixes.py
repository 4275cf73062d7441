"""Know video files by their suffix, and containers without a suffix by their first bytes."""

from __future__ import annotations

import posixpath

VIDEO_SUFFIXES = frozenset(".avi .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .webm".split())
DEFAULT_SUFFIX = ".mp4"

_SUFFIX_OF_MAGIC = {b"\x1aE\xdf\xa3": ".mkv", b"RIFF": ".avi", b"G": ".ts", b"\0\0\1\xba": ".mpg"}
MAGIC_BYTES = max(map(len, _SUFFIX_OF_MAGIC))


def suffix_of(name: str) -> str:
    """Return the suffix of a path or URI in lower case, with its dot, or an empty text."""
    return posixpath.splitext(name)[1].lower()


def is_video(name: str) -> bool:
    """Whether a path below a folder has a video's suffix and no hidden part."""
    return suffix_of(name) in VIDEO_SUFFIXES and not any(part.startswith(".") for part in name.split("/"))


def is_unicode(name: str) -> bool:
    """Whether a file's name is UTF-8, as a manifest needs; Python reads other bytes as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def suffix_by_content(head: bytes) -> str:
    """Return the suffix of a container, by the first `MAGIC_BYTES` bytes of the file."""
    return next((suffix for magic, suffix in _SUFFIX_OF_MAGIC.items() if head.startswith(magic)), DEFAULT_SUFFIX)
