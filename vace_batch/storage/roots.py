"""Which places a run may read: the manifest's folder, the output, and the folders of `--allow-root`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vace_batch.redact import has_secret, redact


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
