"""What a manifest may reach, and what of a URI may be told.

A row may name only what lies below one of the run's roots: the manifest's folder, the output, and what `--allow-root`
adds. So a scheme, a bucket or a host that nobody configured is never asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HIDDEN = "***"
# abfs://container@account is an address, not a name with a password: only what has a colon is.
_USERINFO = re.compile(r"(?<=://)[^/@\s:'\"<>]*:[^@\s'\"<>]*(?=@)")
_WEB_USER = re.compile(r"\b(https?://)[^/@\s'\"<>]+(?=@)")
_PARAMETER = re.compile(
    r"(?i)(?<![\w/.-])((?:x-(?:amz|goog)-)?(?:signature|credential|security-token)"
    r"|sig|awsaccesskeyid|(?:aws_)?(?:secret_)?access_key(?:_id)?|aws_session_token"
    r"|(?:access_?|auth_?|api_?|refresh_?)?token|api_?key|account_?key|password|passwd|pwd|secret)"
    r"(=|%3D)[^&\s'\"<>,;)]+"
)


def redact(text: str) -> str:
    """`text` without the credentials in its URIs: user and password, signatures, tokens and keys in queries."""
    if "://" in text:
        text = _WEB_USER.sub(rf"\1{_HIDDEN}", _USERINFO.sub(_HIDDEN, text))
    return _PARAMETER.sub(rf"\1\2{_HIDDEN}", text) if "=" in text or "%3" in text else text


def has_secret(uri: str) -> bool:
    """Whether a name with a password stands before the host or bucket."""
    return bool(_USERINFO.search(uri))


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Places that may be read, local ones with all symbolic links resolved; made by `of`."""

    local: tuple[str, ...]
    remote: tuple[str, ...]

    @staticmethod
    def of(uris: Sequence[str]) -> Roots:
        """The places at and below each of `uris`: paths or URIs."""
        local = (os.path.realpath(path) for path in map(_local_path, uris) if path is not None)
        remote = (uri.rstrip("/") for uri in uris if _local_path(uri) is None)
        return Roots(local=tuple(dict.fromkeys(local)), remote=tuple(dict.fromkeys(remote)))

    def __str__(self) -> str:
        return ", ".join(map(redact, (*self.local, *self.remote)))

    def allow(self, uri: str) -> bool:
        """Whether `uri`, with all links followed, is one of the places or below one. Looks at links, opens nothing."""
        path = _local_path(uri)
        if path is None:
            return self._allow_remote(uri)
        real = os.path.realpath(path)
        return any(_is_below(real, root) for root in self.local)

    def _allow_remote(self, uri: str) -> bool:
        scheme, _, path = uri.partition("://")
        # A store takes ".." as a name or as a step up, by its driver; "::" chains drivers.
        if ".." in path.split("/") or "::" in path or has_secret(uri):
            return False
        return any(_is_below(f"{scheme}://{path}", root) for root in self.remote)


def _local_path(uri: str) -> str | None:
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    return None if "://" in uri else uri


def _is_below(name: str, root: str) -> bool:
    return name == root or name.startswith(root.rstrip("/") + "/")
