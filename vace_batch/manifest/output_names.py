"""Make output names that are safe on every file system, and distinct for distinct job ids.

An output is `OUT/videos/<safe_name(job_id)><suffix>`; the suffix is a dot and a word, never empty, or names could meet.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_PLAIN_BYTES = 120
MAX_NAME_BYTES = 150

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._-]*")
# An id that looks like a hashed name is hashed again, or an id could be chosen to equal a hashed name. 11 digits, since
# real ids end in 8 (dates), 10 (Unix times) or 12 (UUIDs) digits.
_HASH_DIGITS = 11
_LOOKS_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def safe_name(job_id: str) -> str:
    """Make a file name without suffix: a safe `job_id` itself, else a readable slug, a dash and 11 hex digits.

    A name has at most 150 bytes of UTF-8 and no separator, control character, leading dot or dash, "..", or Windows
    device name. Names of different ids differ even after case folding and Unicode normalisation.

    Example:
        >>> safe_name("news_0042"), safe_name("../News 42")
        ('news_0042', 'news_42-136443bd3db')
    """
    if _is_plain(job_id):
        return job_id
    digest = hashlib.blake2b(job_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{_slug(job_id, MAX_NAME_BYTES - _HASH_DIGITS - 1)}-{digest}"


def collision_key(path: str) -> str:
    """Return a key that is equal for paths that any file system takes for one path.

    The key is case folded and normalised, without trailing dots and spaces.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
    return "/".join(part.rstrip(". ") for part in folded.split("/"))


def _is_plain(job_id: str) -> bool:
    return (
        len(job_id) <= MAX_PLAIN_BYTES
        and _PLAIN.fullmatch(job_id) is not None
        and not job_id.endswith(".")
        and ".." not in job_id
        and _WINDOWS_DEVICE.fullmatch(job_id) is None
        and _LOOKS_HASHED.fullmatch(job_id) is None
    )


def _slug(text: str, max_bytes: int) -> str:
    if text.isascii():
        return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")[:max_bytes].rstrip("_") or "clip"
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    # Marks are kept with their letters: Thai and Devanagari are unreadable without marks.
    kept = "".join(char if unicodedata.category(char)[0] in "LM" or char.isdecimal() else "_" for char in lowered)
    slug = re.sub("_+", "_", kept).strip("_")
    short = slug.encode()[:max_bytes].decode(errors="ignore").rstrip("_")
    return short or "clip"
