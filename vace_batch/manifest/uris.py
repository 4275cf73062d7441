"""Check and resolve the URIs of a manifest, as text: no file is opened.

Names are taken literally: "%2F", "*" and "{}" are parts of a name, never decoded or expanded.
"""

from __future__ import annotations

import os
import posixpath

from vace_batch.redact import has_secret

SCHEMES = ("s3", "gs", "az", "abfs", "memory")
MAX_URI_BYTES = 4_096

_EXPECTED = f"a path, or a URI with file:// or {', '.join(f'{scheme}://' for scheme in SCHEMES)}"


class UriError(ValueError):
    """A URI is not allowed; the message is the expected form."""


def folder_of(uri: str) -> str:
    """Return the absolute folder of a file.

    Raises:
        UriError: the scheme is not allowed.
    """
    uri = resolve_uri(uri, os.getcwd())
    if "://" not in uri:
        return os.path.dirname(uri)
    scheme, path = uri.split("://", 1)
    return f"{scheme}://{posixpath.dirname(path)}"


def resolve_uri(uri: str, folder: str) -> str:
    """Resolve `uri` against `folder` into an absolute local path or a URI with a scheme.

    ".." in a relative URI is resolved as text, and cannot leave a bucket.

    Raises:
        UriError: the URI is empty, has a NUL, is too long, or has a scheme that is not allowed.
    """
    if not uri.strip():
        raise UriError(_EXPECTED)
    if "\0" in uri:
        raise UriError("a URI without NUL")
    if len(uri.encode("utf-8", "surrogatepass")) > MAX_URI_BYTES:
        raise UriError(f"a URI of at most {MAX_URI_BYTES:,} bytes")
    if "://" in uri:
        return _with_scheme(uri)
    if "://" not in folder or uri.startswith("/"):
        return os.path.normpath(os.path.join(folder, uri))
    return _below_remote(uri, folder)


def relative_uri(uri: str, folder: str) -> str:
    """Shorten `uri` to a URI relative to `folder` where `uri` lies below `folder`; `resolve_uri` is the inverse."""
    prefix = folder.rstrip("/") + "/"
    rest = uri.removeprefix(prefix)
    if not uri.startswith(prefix) or not rest.strip():
        return uri
    try:
        return rest if resolve_uri(rest, folder) == uri else uri
    except UriError:
        return uri


def _with_scheme(uri: str) -> str:
    scheme, path = uri.split("://", 1)
    if scheme == "file":
        return _file_path(path)
    # "::" chains fsspec file systems, and so could reach any scheme.
    if scheme not in SCHEMES or "::" in path or "://" in path:
        raise UriError(_EXPECTED)
    if has_secret(uri):
        raise UriError("a URI without credentials: give credentials by the environment")
    _check_parts(scheme, path)
    return uri


def _file_path(path: str) -> str:
    # Without the leading slash the first part would be a host.
    if not path.startswith("/") or "://" in path:
        raise UriError("file:// and an absolute path")
    return os.path.normpath(path)


def _check_parts(scheme: str, path: str) -> None:
    """Check that a path names a file, and in a store a bucket."""
    bucket, _, key = path.partition("/")
    if scheme == "memory" and not path.strip("/"):
        raise UriError("memory://path")
    if scheme != "memory" and not (bucket and key.strip("/")):
        raise UriError(f"{scheme}://bucket/path")


def _below_remote(uri: str, folder: str) -> str:
    if "::" in uri:
        raise UriError("a path without '::'")
    scheme, path = folder.split("://", 1)
    bucket, _, key = path.partition("/")
    joined = posixpath.normpath(f"{key}/{uri}".lstrip("/"))
    if joined == ".." or joined.startswith("../"):
        raise UriError("a path that stays in the manifest's bucket")
    return f"{scheme}://{bucket}/{joined}"
