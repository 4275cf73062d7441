"""What a manifest may reach, and what of a URI may be told.

A row may name only what lies below one of the run's roots: the manifest's folder, the output, and what `--allow-root`
adds. So a scheme, a bucket or a host that nobody configured is never asked.
"""

from __future__ import annotations

import re

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
