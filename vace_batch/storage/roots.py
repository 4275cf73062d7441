"""Limit the places that a run may read: the manifest's folder, the output, and the folders of `--allow-root`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vace_batch.redact import has_secret, redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Places that a run may read; symbolic links in local places are resolved. Made by `of`."""

    local: tuple[str, ...]
    remote: tuple[str, ...]

    @staticmethod
    def of(uris: Sequence[str]) -> Roots:
        """Make roots of paths and URIs; a root allows its place and everything below."""
        local = (os.path.realpath(path) for path in map(_local_path, uris) if path is not None)
        remote = (uri.rstrip("/") for uri in uris if _local_path(uri) is None)
        return Roots(local=tuple(dict.fromkeys(local)), remote=tuple(dict.fromkeys(remote)))

    def __str__(self) -> str:
        return ", ".join(map(redact, (*self.local, *self.remote)))

    def allow(self, uri: str) -> bool:
        """Whether `uri`, with links followed, is a root or lies below a root. Reads links, opens no file."""
        path = _local_path(uri)
        if path is None:
            return self._allow_remote(uri)
        real = os.path.realpath(path)
        return any(_is_below(real, root) for root in self.local)

    def _allow_remote(self, uri: str) -> bool:
        scheme, _, path = uri.partition("://")
        # A store takes ".." as a name or as a step up, depending on its driver; "::" chains drivers.
        if ".." in path.split("/") or "::" in path or has_secret(uri):
            return False
        return any(_is_below(f"{scheme}://{path}", root) for root in self.remote)


def _local_path(uri: str) -> str | None:
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    return None if "://" in uri else uri


def _is_below(name: str, root: str) -> bool:
    return name == root or name.startswith(root.rstrip("/") + "/")
