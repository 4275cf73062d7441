"""Retry failed calls to a store for some seconds before they raise."""

from __future__ import annotations

import errno
import functools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from vace_batch.redact import redact

_T = TypeVar("_T")
_TRIES = 6
_FIRST_PAUSE_S = 0.1
_DRIVERS = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "requests"})
_ANSWERS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


class RetryingFileSystem:
    """A store's file system whose calls are retried, unless the failure is an answer about the file.

    A call may be sent more than once, also after a lost answer, so every operation must be idempotent.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)
        return functools.partial(retry, _as_files_fail, call) if callable(call) else call


def _as_files_fail(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """Call `call(*args, **more)`; exceptions of stores' clients, which adlfs and gcsfs pass on, become `OSError`."""
    try:
        return call(*args, **more)
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in _DRIVERS:
            raise OSError(redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")) from error
        raise


def retry(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """Call `call(*args, **more)` up to six times, with growing pauses, while the call fails with an `OSError`.

    An error about the file (not found, a folder) or a full disk is an answer, and is not retried.
    """
    for number in range(_TRIES - 1):
        try:
            return call(*args, **more)
        except _ANSWERS:
            raise
        except OSError as error:
            if is_disk_full(error):
                raise
            # Random, or all callers that failed together would retry together.
            time.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.5))
    return call(*args, **more)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
