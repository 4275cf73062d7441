"""Remove credentials from texts: URIs with passwords, signatures, tokens and keys."""

from __future__ import annotations

import re

_HIDDEN = "***"
# abfs://container@account is an address; a user with a password has a colon.
_USERINFO = re.compile(r"(?<=://)[^/@\s:'\"<>]*:[^@\s'\"<>]*(?=@)")
_WEB_USER = re.compile(r"\b(https?://)[^/@\s'\"<>]+(?=@)")
_PARAMETER = re.compile(
    r"(?i)(?<![\w/.-])((?:x-(?:amz|goog)-)?(?:signature|credential|security-token)"
    r"|sig|awsaccesskeyid|(?:aws_)?(?:secret_)?access_key(?:_id)?|aws_session_token"
    r"|(?:access_?|auth_?|api_?|refresh_?)?token|api_?key|account_?key|password|passwd|pwd|secret)"
    r"(=|%3D)[^&\s'\"<>,;)]+"
)


def redact(text: str) -> str:
    """Replace the credentials in `text`: user and password of a URI, signatures, tokens and keys."""
    if "://" in text:
        text = _WEB_USER.sub(rf"\1{_HIDDEN}", _USERINFO.sub(_HIDDEN, text))
    return _PARAMETER.sub(rf"\1\2{_HIDDEN}", text) if "=" in text or "%3" in text else text


def has_secret(uri: str) -> bool:
    """Whether a user with a password stands before the host or bucket of a URI."""
    return bool(_USERINFO.search(uri))
