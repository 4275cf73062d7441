"""faulty://<absolute path>: a local folder behind a store that fails, answers late, or returns half of an object.

The environment sets the faults, so that every process of a run has them: FAULTY_FAIL and FAULTY_TRUNCATE are shares of
the calls, FAULTY_SLOW_S the seconds of each call. Half of the failed calls are done all the same: only their answer was
lost. Import this module to register the file system.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vace_batch.storage import files as storage

SCHEME = "faulty"


def _share(name: str) -> float:
    return float(os.environ.get(name, "0"))


def _badly(do: Callable[[], Any]) -> Any:
    """Make a call slowly, and sometimes report a failure; half of the failed calls are done all the same."""
    time.sleep(_share("FAULTY_SLOW_S"))
    if random.random() >= _share("FAULTY_FAIL"):
        return do()
    if random.random() < 0.5:
        do()
    raise OSError("503 Slow Down")


class _Upload(io.BytesIO):
    """An object that is created whole when it is closed, if its name is free."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            if not _badly(lambda: storage.create_exclusive(self._path, data)):
                raise FileExistsError(self._path)


class FaultyFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A faulty store over the local disk, which writes and reads whole objects."""

    protocol = SCHEME

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix(f"{SCHEME}://"))

    def open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        return _Upload(self._strip_protocol(path)) if mode == "xb" else LocalFileSystem().open(path, mode, **more)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        _badly(lambda: storage.publish(path, value))

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        with open(lpath, "rb") as file:
            data = file.read()
        _badly(lambda: storage.publish(rpath, data))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        with open(path, "rb") as file:
            data = file.read()[start:end]
        half = random.random() < _share("FAULTY_TRUNCATE")
        answer: bytes = _badly(lambda: data[: len(data) // 2] if half else data)
        return answer

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        with open(lpath, "wb") as file:
            file.write(self.cat_file(rpath))

    def ls(self, path: str, detail: bool = False, **more: Any) -> Any:
        return _badly(lambda: LocalFileSystem().ls(path, detail=detail, **more))

    def info(self, path: str, **more: Any) -> Any:
        return _badly(lambda: LocalFileSystem().info(path, **more))

    def find(self, path: str, **more: Any) -> Any:
        more = {name: value for name, value in more.items() if name != "prefix"}
        return _badly(lambda: LocalFileSystem().find(path, **more))

    def rm_file(self, path: str) -> None:
        _badly(lambda: LocalFileSystem().rm_file(path))


fsspec.register_implementation(SCHEME, FaultyFileSystem, clobber=True)
